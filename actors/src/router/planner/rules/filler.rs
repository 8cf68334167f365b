//! Finds the value of one parameter after the other; each mention in the question is used once.

use std::ops::Range;

use serde_json::{Value, json};
use troupe_protocol::routing::ArgumentSource;

use super::entities::{self, Entities, overlaps};
use super::role::{self, Role};
use super::{plain, text};
use crate::router::index::analysis;
use crate::router::planner::schema::{Parameter, ValueKind};
use crate::router::planner::{Filled, PlanRequest};

/// A value that was found, where, and how to say so.
struct Found {
    value: Value,
    span: Range<usize>,
    how: String,
}

/// Fills one parameter after the other; what one has taken no other takes.
pub(super) struct Filler<'a> {
    request: PlanRequest<'a>,
    entities: Entities<'a>,
    used: Vec<Range<usize>>,
    pub filled: Filled,
}

impl<'a> Filler<'a> {
    pub fn new(request: PlanRequest<'a>) -> Self {
        let entities = Entities::read(request.question, request.now);
        Self {
            request,
            entities,
            used: Vec::new(),
            filled: Filled::default(),
        }
    }

    pub fn into_filled(self) -> Filled {
        self.filled
    }

    /// Finds the parameter's value; answers whether there is one.
    pub fn fill(&mut self, role: Role, parameter: &Parameter<'_>, all: &[Parameter<'_>]) -> bool {
        let found = self.find(role, parameter, all);
        let (value, how) = match found {
            Some(found) => {
                if !found.span.is_empty() {
                    self.used.push(found.span);
                }
                (found.value, found.how)
            }
            None => match self.fallback(role, parameter) {
                Some(value_and_how) => value_and_how,
                None => return false,
            },
        };
        let argument = parameter.name.to_owned();
        self.filled.arguments.insert(argument.clone(), value);
        self.filled.sources.push(ArgumentSource { argument, found: how });
        true
    }

    fn find(&self, role: Role, parameter: &Parameter<'_>, all: &[Parameter<'_>]) -> Option<Found> {
        if !parameter.choices.is_empty() {
            return self.choice(parameter);
        }
        match parameter.kind {
            ValueKind::Boolean => self.boolean(parameter),
            ValueKind::Integer | ValueKind::Number => self.number(parameter, all),
            ValueKind::Array => self.list(role, parameter),
            ValueKind::Text => self.text(role, parameter, all),
            ValueKind::Other => None,
        }
    }

    /// Where the question says nothing: the conversation, for what a follow-up or a required argument needs; what the
    /// schema itself names for this case.
    fn fallback(&self, role: Role, parameter: &Parameter<'_>) -> Option<(Value, String)> {
        let earlier = self.request.context.earlier.get(parameter.name);
        if let Some(value) =
            earlier.filter(|_| self.request.context.follows_up || (parameter.required && role.lasts()))
        {
            return Some((value.clone(), "from earlier in this conversation".to_owned()));
        }
        if !parameter.required {
            return None;
        }
        if let [only] = parameter.choices.as_slice() {
            return Some(((*only).clone(), "the only value it may have".to_owned()));
        }
        if let Some(default) = parameter.default {
            return Some((default.clone(), "the schema's default".to_owned()));
        }
        role::default_in_words(parameter).map(|value| {
            (
                json!(value),
                "the default that the tool's description names".to_owned(),
            )
        })
    }

    fn is_free(&self, span: &Range<usize>) -> bool {
        self.used.iter().all(|used| !overlaps(used, span))
    }

    fn choice(&self, parameter: &Parameter<'_>) -> Option<Found> {
        let asked = analysis::terms(self.entities.text);
        let best = parameter
            .choices
            .iter()
            .filter_map(|choice| {
                let words = analysis::terms(&plain(choice));
                let is_said = !words.is_empty() && words.iter().all(|word| asked.contains(word));
                is_said.then_some((words.len(), *choice))
            })
            .max_by_key(|(words, _)| *words)?;
        Some(Found {
            value: best.1.clone(),
            span: 0..0,
            how: format!("the question says {}", plain(best.1)),
        })
    }

    /// True where the question uses the parameter's own words, false where it denies them.
    fn boolean(&self, parameter: &Parameter<'_>) -> Option<Found> {
        let wanted = analysis::terms(parameter.name);
        let asked = analysis::terms(self.entities.text);
        if wanted.is_empty() || !wanted.iter().all(|word| asked.contains(word)) {
            return None;
        }
        let value = !text::is_denied(self.entities.text, parameter.name);
        Some(Found {
            value: json!(value),
            span: 0..0,
            how: format!("the question says {}", parameter.name),
        })
    }

    fn number(&self, parameter: &Parameter<'_>, all: &[Parameter<'_>]) -> Option<Found> {
        let free: Vec<_> = self
            .entities
            .numbers
            .iter()
            .filter(|number| self.is_free(&number.span))
            .collect();
        let fits = |number: &&&entities::Number| parameter.kind == ValueKind::Number || number.is_whole;
        let named = free
            .iter()
            .filter(fits)
            .find(|number| text::is_beside(self.entities.text, &number.span, parameter));
        // A required number takes the first one; an optional one only a number that can be meant for nothing else.
        let numeric = |p: &&Parameter<'_>| matches!(p.kind, ValueKind::Integer | ValueKind::Number);
        let is_only = all.iter().filter(numeric).count() == 1
            && free.len() == 1
            && text::counts_things(self.entities.text, &free[0].span, parameter);
        let number = named.or_else(|| free.iter().find(fits).filter(|_| parameter.required || is_only))?;
        let value = if number.is_whole {
            json!(number.value as i64)
        } else {
            json!(number.value)
        };
        Some(Found {
            value,
            span: number.span.clone(),
            how: format!("the number {}", number.value),
        })
    }

    fn list(&self, role: Role, parameter: &Parameter<'_>) -> Option<Found> {
        let item_type = parameter
            .items
            .and_then(|items| items.get("type"))
            .and_then(Value::as_str);
        match item_type {
            Some("number" | "integer") => {
                let values: Vec<Value> = self
                    .entities
                    .numbers
                    .iter()
                    .filter(|number| self.is_free(&number.span))
                    .map(|number| {
                        if number.is_whole {
                            json!(number.value as i64)
                        } else {
                            json!(number.value)
                        }
                    })
                    .collect();
                (!values.is_empty()).then(|| Found {
                    value: json!(values),
                    span: 0..0,
                    how: "the numbers".to_owned(),
                })
            }
            Some("string") | None => {
                let pieces = match role {
                    Role::Path => &self.entities.paths,
                    Role::Url => &self.entities.urls,
                    Role::Email => &self.entities.emails,
                    _ => &self.entities.quoted,
                };
                let values: Vec<&str> = pieces
                    .iter()
                    .filter(|p| self.is_free(&p.span))
                    .map(|p| p.text.as_str())
                    .collect();
                if !values.is_empty() {
                    return Some(Found {
                        value: json!(values),
                        span: 0..0,
                        how: "named in the question".to_owned(),
                    });
                }
                let piece = text::beside_noun(self.entities.text, parameter)?;
                Some(Found {
                    value: json!([piece.text]),
                    how: format!("\"{}\"", piece.text),
                    span: piece.span,
                })
            }
            Some(_) => None,
        }
    }

    fn text(&self, role: Role, parameter: &Parameter<'_>, all: &[Parameter<'_>]) -> Option<Found> {
        let piece = |kind: &str, pieces: &[entities::Piece]| {
            let piece = pieces.iter().find(|piece| self.is_free(&piece.span))?;
            Some(Found {
                value: json!(piece.text),
                span: piece.span.clone(),
                how: format!("{kind} {}", piece.text),
            })
        };
        match role {
            Role::TimeZone => self.time_zone(parameter),
            Role::ClockTime => {
                let time = self
                    .entities
                    .clock_times
                    .iter()
                    .find(|time| self.is_free(&time.span))?;
                Some(Found {
                    value: json!(time.to_24_hours()),
                    span: time.span.clone(),
                    how: format!("\"{}\"", &self.entities.text[time.span.clone()]),
                })
            }
            Role::Date | Role::DateTime => self.moment(role),
            Role::Url => piece("the address", &self.entities.urls),
            Role::Email => piece("the mail address", &self.entities.emails),
            Role::Path => piece("the path", &self.entities.paths).or_else(|| self.quoted_path()),
            Role::Sql => {
                let sql = self.entities.sql.as_ref()?;
                Some(Found {
                    value: json!(sql.text),
                    span: sql.span.clone(),
                    how: "the SQL statement".to_owned(),
                })
            }
            Role::Place => {
                let place = self
                    .entities
                    .places
                    .iter()
                    .find(|place| self.is_free(&place.span));
                let named = place.map(|place| entities::Piece {
                    span: place.span.clone(),
                    text: place.name.clone(),
                });
                let piece = named.or_else(|| text::capitalised_after_preposition(self.entities.text))?;
                Some(Found {
                    value: json!(piece.text),
                    how: format!("the place {}", piece.text),
                    span: piece.span,
                })
            }
            Role::Text => self.free_text(parameter, all),
        }
    }

    fn quoted_path(&self) -> Option<Found> {
        let piece = self
            .entities
            .quoted
            .iter()
            .find(|p| self.is_free(&p.span) && !p.text.contains(' '))?;
        Some(Found {
            value: json!(piece.text),
            span: piece.span.clone(),
            how: format!("\"{}\"", piece.text),
        })
    }

    /// Two zones are told apart by name: a source takes the place after "from" or the first, a target the one after
    /// "to" or the last.
    fn time_zone(&self, parameter: &Parameter<'_>) -> Option<Found> {
        let free: Vec<_> = self
            .entities
            .places
            .iter()
            .filter(|place| self.is_free(&place.span))
            .collect();
        let name = parameter.name.to_lowercase();
        let after = |words: &[&str]| {
            free.iter()
                .find(|place| {
                    words.contains(&text::word_before(self.entities.text, place.span.start).as_str())
                })
                .copied()
        };
        let is_target = ["target", "to", "dest", "destination", "output"]
            .iter()
            .any(|word| text::has_word(&name, word));
        let is_source = ["source", "from", "origin", "input"]
            .iter()
            .any(|word| text::has_word(&name, word));
        let place = if is_target {
            // With one place left and a source still open, "to" must say that it is the target.
            after(&["to", "into"]).or_else(|| {
                free.last()
                    .copied()
                    .filter(|_| free.len() > 1 || !self.used.is_empty())
            })
        } else if is_source {
            let first_not_target = || {
                free.iter()
                    .find(|place| {
                        !["to", "into"]
                            .contains(&text::word_before(self.entities.text, place.span.start).as_str())
                    })
                    .copied()
            };
            after(&["from"]).or_else(first_not_target)
        } else {
            free.first().copied()
        };
        let place = place?;
        Some(Found {
            value: json!(place.zone),
            span: place.span.clone(),
            how: format!("place \"{}\" → {}", place.name, place.zone),
        })
    }

    fn moment(&self, role: Role) -> Option<Found> {
        let moment = self
            .entities
            .moments
            .iter()
            .find(|moment| self.is_free(&moment.span))?;
        let value = if role == Role::DateTime && moment.has_time {
            moment.to_rfc3339()
        } else {
            moment.to_date()
        };
        let value = if role == Role::DateTime && !moment.has_time {
            moment.to_rfc3339()
        } else {
            value
        };
        let how = format!("\"{}\" → {value}", &self.entities.text[moment.span.clone()]);
        Some(Found {
            value: json!(value),
            span: moment.span.clone(),
            how,
        })
    }

    fn free_text(&self, parameter: &Parameter<'_>, all: &[Parameter<'_>]) -> Option<Found> {
        let said = |piece: entities::Piece| Found {
            value: json!(piece.text),
            how: format!("\"{}\"", piece.text),
            span: piece.span,
        };
        let free = |piece: &entities::Piece| self.is_free(&piece.span);
        if let Some(piece) = text::quoted_after_name(&self.entities, parameter).filter(free) {
            return Some(said(piece));
        }
        if let Some(piece) = text::beside_noun(self.entities.text, parameter).filter(free) {
            return Some(said(piece));
        }
        let texts = all
            .iter()
            .filter(|p| p.required && role::of(p, self.request.tool) == Role::Text)
            .count();
        if !parameter.required && texts > 0 {
            return None;
        }
        if let Some(piece) = self.entities.quoted.iter().find(|piece| free(piece)) {
            return Some(said(piece.clone()));
        }
        if !parameter.required || texts > 1 {
            return None;
        }
        text::remainder(self.entities.text, parameter, self.request.tool)
            .filter(free)
            .map(said)
    }
}
