# The incidents of a fleet, from the messages of the gateway's topic or the lines of a file exporter,
# each an OTLP request in JSON: every incident once, however many agents report it and however often.
#
#   kafka-console-consumer.sh --bootstrap-server … --topic whydrop --from-beginning | jq -n -f incidents.jq
def attributes: map({key, value: (.value | to_entries[0].value)}) | from_entries;
def events:
  .resourceLogs[] as $sender
  | ($sender.resource.attributes | attributes) as $agent
  | $sender.scopeLogs[].logRecords[]
  | {name: .eventName, time: .timeUnixNano, agent: $agent, about: (.attributes | attributes)};

[inputs | events | select(.name == "k8s.network_policy.incident")]
# Copies of one record have one uid.
| unique_by(.about["log.record.uid"])
| group_by(.about["whydrop.incident.id"])
| map(
    # What each agent said last is what it knows.
    (group_by(.agent["service.instance.id"])
      | map(max_by([.time, (.about["whydrop.sequence"] | tonumber)]))) as $last
    | ($last | max_by(.time)) as $newest
    | {
        incident: $newest.about["whydrop.incident.id"],
        cluster: $newest.agent["k8s.cluster.uid"],
        state: (if all($last[]; .about["whydrop.incident.happened"] == "resolved")
          then "resolved" else "open" end),
        severity: $newest.about["whydrop.incident.severity"],
        first: ([$last[].about["whydrop.incident.first"]] | min),
        last: ([$last[].about["whydrop.incident.last"]] | max),
        # Two nodes may see the same drop: this is an upper bound.
        drops: ([$last[].about["whydrop.incident.drops"] | tonumber] | add),
        nodes: ([$last[].agent["k8s.node.name"]] | unique),
        cause: $newest.about["whydrop.cause.text"],
        do: $newest.about["whydrop.plan.first"]
      })
| sort_by(.first)[]
