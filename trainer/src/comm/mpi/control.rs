//! Notices between ranks beside their groups: who failed, and what a rank that keeps others waiting
//! is doing.

use std::collections::BTreeMap;

use burn::tensor::{Bytes, DType};
use serde::{Deserialize, Serialize};

use super::library::{Communicator, Library, Request};
use super::operation::Operation;

const NOTICE: i32 = 3;

/// What one rank tells another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Notice {
    /// The sender failed by itself.
    Failed { reason: String },
    /// The sender ended because the receiver failed.
    Ended { reason: String },
    /// A group of both failed at the sender.
    GroupFailed { group: usize, reason: String },
    /// The sender waits for the receiver in a group.
    Ask { question: u64, group: usize },
    /// How far the sender is in that group.
    Answer { question: u64, issued: u64, has_ended: bool },
}

/// How far a rank is in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) issued: u64,
    pub(super) has_ended: bool,
}

/// One rank's end of the notices.
pub(super) struct Control {
    on: Communicator,
    sending: Vec<Request>,
    receiving: Option<(usize, usize, Request)>,
    question: u64,
    pub(super) answers: BTreeMap<usize, Answer>,
    /// What ranks said last: why they failed, or why they ended.
    pub(super) last_words: BTreeMap<usize, String>,
    /// Ranks that failed by themselves.
    pub(super) claims: Vec<usize>,
}

impl Control {
    pub(super) fn new(on: Communicator) -> Self {
        Self {
            on,
            sending: Vec::new(),
            receiving: None,
            question: 0,
            answers: BTreeMap::new(),
            last_words: BTreeMap::new(),
            claims: Vec::new(),
        }
    }

    /// Starts to send a notice. What cannot be sent is left to the time limits of the others.
    pub(super) fn send(&mut self, library: &mut Library, to: usize, notice: &Notice) {
        let Ok(text) = serde_json::to_vec(notice) else { return };
        let bytes = Some(Bytes::from_bytes_vec(text));
        let operation = Operation::Send { to, tag: NOTICE };
        match Request::start(library, &self.on, &operation, bytes, None, DType::U8) {
            Ok(request) => self.sending.push(request),
            Err(error) => tracing::debug!(to, error, "a notice could not be sent"),
        }
    }

    /// Asks ranks how far they are in a group; the answers come in one by one.
    pub(super) fn ask(
        &mut self,
        library: &mut Library,
        ranks: impl IntoIterator<Item = usize>,
        group: usize,
    ) {
        self.question += 1;
        self.answers.clear();
        for rank in ranks {
            self.send(library, rank, &Notice::Ask { question: self.question, group });
        }
    }

    /// Takes in an answer, unless it is to an earlier question.
    pub(super) fn answered(&mut self, from: usize, question: u64, answer: Answer) {
        if question == self.question {
            self.answers.insert(from, answer);
        }
    }

    /// Returns the next notice that has come, and who sent it.
    pub(super) fn receive(&mut self, library: &mut Library) -> Option<(usize, Notice)> {
        self.sending.retain_mut(|request| !request.test(library).unwrap_or(true));
        if self.receiving.is_none() {
            let (from, bytes) = self.on.probe(library, NOTICE).ok()??;
            let operation = Operation::Receive { from, tag: NOTICE };
            let request =
                Request::start(library, &self.on, &operation, None, Some(bytes), DType::U8).ok()?;
            self.receiving = Some((from, bytes, request));
        }
        let (from, bytes, mut request) = self.receiving.take()?;
        if !request.test(library).ok()? {
            self.receiving = Some((from, bytes, request));
            return None;
        }
        let text = request.into_received(vec![bytes], DType::U8)?;
        match serde_json::from_slice(text.as_bytes()) {
            Ok(notice) => Some((from, notice)),
            Err(error) => {
                tracing::debug!(from, %error, "a notice could not be read");
                None
            }
        }
    }
}
