//! Searching servers by words, fast: all text is put in lower case once, when a server changes.

use troupe_protocol::server::ServerEntry;

/// The text of a server in lower case.
#[derive(Debug)]
pub(crate) struct SearchText {
    name: Box<str>,
    title: Box<str>,
    /// Description, labels, and the names of advertised tools, one a line.
    rest: Box<str>,
}

/// How well a server fits a search; the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fit {
    /// It is named so.
    Name,
    /// Its name begins so.
    NameStart,
    /// Its name or title has all the words.
    NamePart,
    /// The words occur elsewhere too.
    Elsewhere,
}

impl SearchText {
    pub fn of(entry: &ServerEntry, tool_names: impl IntoIterator<Item = String>) -> Self {
        let mut rest = entry.manifest.description.to_lowercase();
        let labels = entry.operation.labels.iter().map(|label| label.to_lowercase());
        let tools = tool_names.into_iter().map(|name| name.to_lowercase());
        for line in labels.chain(tools).chain([entry.manifest.name.to_lowercase()]) {
            rest.push('\n');
            rest.push_str(&line);
        }
        Self {
            name: entry.name.as_str().into(),
            title: entry.title().to_lowercase().into_boxed_str(),
            rest: rest.into_boxed_str(),
        }
    }
}

impl SearchText {
    /// The title in lower case.
    pub fn title(&self) -> &str {
        &self.title
    }
}

/// Words to search for.
#[derive(Debug, Default)]
pub(crate) struct Search {
    phrase: String,
    words: Vec<String>,
}

impl Search {
    pub fn new(text: &str) -> Self {
        let phrase = text.trim().to_lowercase();
        let words = phrase.split_whitespace().map(str::to_owned).collect();
        Self { phrase, words }
    }

    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// How well a server fits; nothing when a word occurs nowhere. `live_tools` are the names of the tools that it
    /// listed when it was last reached, in lower case.
    pub fn fit(&self, text: &SearchText, live_tools: &str) -> Option<Fit> {
        if self.is_empty() || *text.name == *self.phrase {
            return Some(Fit::Name);
        }
        let in_heading =
            |word: &String| text.name.contains(word.as_str()) || text.title.contains(word.as_str());
        let anywhere = |word: &String| {
            in_heading(word) || text.rest.contains(word.as_str()) || live_tools.contains(word.as_str())
        };
        if !self.words.iter().all(anywhere) {
            return None;
        }
        if text.name.starts_with(self.phrase.as_str()) || text.title.starts_with(self.phrase.as_str()) {
            return Some(Fit::NameStart);
        }
        Some(if self.words.iter().all(in_heading) {
            Fit::NamePart
        } else {
            Fit::Elsewhere
        })
    }
}
