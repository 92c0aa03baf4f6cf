//! A strict checker of the trace-event format, as far as we write it. Knows the format
//! alone; ignores what we trace.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

type Thread = (u64, u64);
/// One end of a flow: where, when, and which.
type FlowEnd = (Thread, u64, String);

/// What a trace holds, by phase, or everything that is wrong with it.
pub(crate) fn check(text: &str) -> Result<BTreeMap<String, usize>, Vec<String>> {
    let value: Value = serde_json::from_str(text).map_err(|error| vec![error.to_string()])?;
    let mut checker = Checker::default();
    if !matches!(value["displayTimeUnit"].as_str(), Some("ms" | "ns")) {
        checker.wrong("displayTimeUnit is neither ms nor ns");
    }
    let Some(events) = value["traceEvents"].as_array() else { return Err(vec!["no traceEvents".into()]) };
    for (place, event) in events.iter().enumerate() {
        checker.place = place;
        checker.event(event);
    }
    checker.slices();
    checker.flows();
    checker.names();
    if checker.wrongs.is_empty() { Ok(checker.phases) } else { Err(checker.wrongs) }
}

#[derive(Default)]
struct Checker {
    place: usize,
    wrongs: Vec<String>,
    phases: BTreeMap<String, usize>,
    last_ts: u64,
    /// Begin and end.
    slices: BTreeMap<Thread, Vec<(u64, u64)>>,
    /// By name, category and id.
    flows: BTreeMap<(String, String, u64), Vec<FlowEnd>>,
    processes: BTreeSet<u64>,
    threads: BTreeSet<Thread>,
    counters: BTreeSet<u64>,
}

impl Checker {
    fn wrong(&mut self, what: impl std::fmt::Display) {
        self.wrongs.push(format!("event {}: {what}", self.place));
    }

    fn number(&mut self, event: &Value, field: &str) -> u64 {
        // Exact in a browser as well.
        let number = event[field].as_u64().filter(|number| *number <= 1 << 53);
        if number.is_none() {
            self.wrong(format!("{field} is no number of the format: {}", event[field]));
        }
        number.unwrap_or(0)
    }

    fn word(&mut self, event: &Value, field: &str) -> String {
        let word = event[field].as_str().unwrap_or("").to_owned();
        if word.is_empty() {
            self.wrong(format!("{field} is missing"));
        }
        word
    }

    fn event(&mut self, event: &Value) {
        let phase = self.word(event, "ph");
        *self.phases.entry(phase.clone()).or_default() += 1;
        let name = self.word(event, "name");
        let thread = (self.number(event, "pid"), self.number(event, "tid"));
        let ts = self.number(event, "ts");
        if phase != "M" {
            if ts < self.last_ts {
                self.wrong("not in the order of time");
            }
            self.last_ts = ts;
        }
        match &*phase {
            "X" => {
                self.word(event, "cat");
                let end = ts.saturating_add(self.number(event, "dur"));
                self.slices.entry(thread).or_default().push((ts, end));
                if !event["args"].is_object() {
                    self.wrong("args is no object");
                }
            }
            "s" | "f" => {
                let flow = (name, self.word(event, "cat"), self.number(event, "id"));
                self.flows.entry(flow).or_default().push((thread, ts, phase.clone()));
                let binds = event["bp"].as_str();
                if binds != (phase == "f").then_some("e") {
                    self.wrong("bp is for ends of flows, and they need it");
                }
            }
            "C" => {
                self.counters.insert(thread.0);
                let args = event["args"].as_object();
                if !args.is_some_and(|args| !args.is_empty() && args.values().all(Value::is_number)) {
                    self.wrong("a counter counts numbers");
                }
            }
            "M" => self.metadata(&name, thread, &event["args"]),
            other => self.wrong(format!("phase {other:?} is none that we write")),
        }
    }

    fn metadata(&mut self, name: &str, thread: Thread, args: &Value) {
        let named = args["name"].as_str().is_some_and(|name| !name.is_empty());
        let new = match name {
            "process_name" if named => self.processes.insert(thread.0),
            // Not all readers tell two threads of one number apart.
            "thread_name" if named => {
                !self.threads.iter().any(|other| other.1 == thread.1) && self.threads.insert(thread)
            }
            "process_sort_index" | "thread_sort_index" => args["sort_index"].is_u64(),
            _ => false,
        };
        if !new {
            self.wrong("metadata that is unknown, twice or incomplete");
        }
    }

    /// The format lets slices of a thread lie within each other; ours never do.
    fn slices(&mut self) {
        for (thread, slices) in &mut self.slices {
            slices.sort_unstable();
            for two in slices.windows(2).filter(|two| two[1].0 < two[0].1) {
                self.wrongs.push(format!("thread {thread:?}: {:?} overlaps {:?}", two[0], two[1]));
            }
        }
    }

    fn flows(&mut self) {
        let mut wrongs = Vec::new();
        for (flow, ends) in &self.flows {
            let phases: Vec<&str> = ends.iter().map(|end| &*end.2).collect();
            if phases != ["s", "f"] {
                wrongs.push(format!("flow {flow:?} has {phases:?}"));
                continue;
            }
            if ends[0].1 > ends[1].1 {
                wrongs.push(format!("flow {flow:?} ends before it starts"));
            }
            for (thread, ts, phase) in ends {
                let slices = self.slices.get(thread).map_or(&[][..], Vec::as_slice);
                if !slices.iter().any(|(start, end)| start <= ts && ts < end) {
                    wrongs.push(format!("flow {flow:?}: its {phase} is in no slice"));
                }
            }
        }
        self.wrongs.extend(wrongs);
    }

    fn names(&mut self) {
        let mut wrongs = Vec::new();
        for thread in self.slices.keys().filter(|thread| !self.threads.contains(thread)) {
            wrongs.push(format!("thread {thread:?} has no name"));
        }
        let used = self.slices.keys().map(|thread| thread.0).chain(self.counters.iter().copied());
        for process in used.filter(|process| !self.processes.contains(process)) {
            wrongs.push(format!("process {process} has no name"));
        }
        self.wrongs.extend(wrongs);
    }
}
