//! The order of policies in a layer, and of tiers.

use std::cmp::Ordering;

/// A place in an order, lowest first. Calico's `order` is a number with a fraction; where it is
/// absent, the place is after all that have one.
#[derive(Clone, Copy, Debug)]
pub struct Order(f64);

impl Order {
    /// After every number.
    pub const LAST: Self = Self(f64::INFINITY);

    /// The place of a whole number.
    pub const fn of(number: u32) -> Self {
        Self(number as f64)
    }

    /// The place of Calico's `order`.
    pub fn of_calico(order: Option<f64>) -> Self {
        order.map_or(Self::LAST, Self)
    }
}

impl PartialEq for Order {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Order {}

impl PartialOrd for Order {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Order {
    fn cmp(&self, other: &Self) -> Ordering {
        // Zero has two forms, which Calico takes for one.
        (self.0 + 0.0).total_cmp(&(other.0 + 0.0))
    }
}
