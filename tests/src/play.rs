//! What is played in the worlds, and how it is shown: scenarios and stories, which are data;
//! demonstrations; the differential, whose clusters a seed makes.

pub mod churn;
pub mod denied;
pub mod differential;
pub mod expect;
pub mod hint;
pub mod living;
pub mod marker;
pub mod narration;
pub mod player;
mod random;
pub mod replicas;
pub mod said;
pub mod scenario;
pub mod stage;
pub mod story;
pub mod trap;
pub mod whole_node;

use serde_json::Value;

/// Anyone who watches what is played.
pub trait Audience {
    /// Words between the steps.
    fn say(&mut self, words: &str);
    /// Something is about to be run or sent by `who`.
    fn command(&mut self, who: &str, command: &str);
    /// What came of it.
    fn output(&mut self, text: &str);
    /// A file that matters, with its text.
    fn file(&mut self, name: &str, text: &str);
    /// The agent reported this.
    fn record(&mut self, record: &Value);
}
