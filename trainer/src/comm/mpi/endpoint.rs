//! One member's end of a group: the [`Transport`] of processes.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::time::Instant;

use burn::tensor::TensorData;

use super::super::local::mailbox::Channel;
use super::super::local::rendezvous::Failure;
use super::super::{Call, CommError, Pending, Transport};
use super::group::Standing;
use super::state::Shared;

/// Joins one member to its group.
pub(super) struct Endpoint {
    pub(super) shared: Arc<Shared>,
    /// Index among the rank's groups.
    pub(super) group: usize,
}

impl Transport for Endpoint {
    fn issue(&self, call: Call, input: Option<TensorData>) -> Result<Box<dyn Pending>, CommError> {
        let sequence = self.shared.with(|state, library| {
            let group = &state.groups[self.group];
            let during = numbered(group.issued(), &call.to_string());
            if let Some(error) = state.failed(self.group, &during) {
                return Err(error);
            }
            let sequence = state.groups[self.group].issue(library, call, input)?;
            state.advance(library);
            Ok(sequence)
        })??;
        self.shared.wake();
        let (shared, group) = (Arc::clone(&self.shared), self.group);
        Ok(Box::new(PendingCall { shared, group, sequence, is_released: false }))
    }

    fn send(&self, data: TensorData, to: usize, tag: u64) -> Result<(), CommError> {
        self.shared.with(|state, library| {
            let during = format!("send to {}", state.groups[self.group].labels[to]);
            if let Some(error) = state.failed(self.group, &during) {
                return Err(error);
            }
            state.groups[self.group].send(library, data, to, tag)
        })??;
        self.shared.wake();
        Ok(())
    }

    fn post_receive(
        &self,
        from: usize,
        tag: u64,
        site: &'static Location<'static>,
    ) -> Result<Box<dyn Pending>, CommError> {
        let channel = Channel { from, to: 0, tag };
        let (ticket, text) = self.shared.with(|state, _| {
            let group = &mut state.groups[self.group];
            let (me, them) = (&group.labels[group.member.index], &group.labels[from]);
            let place = format!("{}:{}", site.file(), site.line());
            let text = format!("recv on {me} of tag {tag} from {them} at {place}");
            let ticket = group.mail.post(channel);
            match state.failed(self.group, &text) {
                Some(error) => Err(error),
                None => Ok((ticket, text)),
            }
        })??;
        let (shared, group) = (Arc::clone(&self.shared), self.group);
        Ok(Box::new(PendingReceive { shared, group, channel, ticket, text }))
    }

    fn abort(&self, error: CommError) {
        // Once the library has ended there is nobody to tell.
        let _ = self.shared.with(|state, library| state.fail_group(library, self.group, &error));
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("group", &self.group).finish_non_exhaustive()
    }
}

struct PendingCall {
    shared: Arc<Shared>,
    group: usize,
    sequence: u64,
    is_released: bool,
}

impl Pending for PendingCall {
    fn wait(mut self: Box<Self>) -> Result<Option<TensorData>, CommError> {
        let (index, sequence) = (self.group, self.sequence);
        let mut has_arrived = false;
        let limit = self.shared.timeouts.collective;
        let found = self.shared.wait_for(limit, |state, since| {
            // A group that failed may still have ended this call before.
            match state.groups[index].standing(sequence) {
                Standing::Done(result) => return Some(Ok(result)),
                Standing::Arrived if !has_arrived => {
                    // Nobody is late any more; what is left is the time it takes to move.
                    has_arrived = true;
                    *since = Instant::now();
                }
                Standing::Arrived | Standing::Open => {}
            }
            let text = numbered(sequence, &state.groups[index].text(sequence));
            state.failed(index, &text).map(Err)
        })?;
        match found {
            Some(result) => {
                self.is_released = result.is_ok();
                result
            }
            None => Err(self.late(has_arrived)?),
        }
    }
}

impl PendingCall {
    /// Finds out who is missing and makes the group fail.
    fn late(&self, has_arrived: bool) -> Result<CommError, CommError> {
        let answers = self.shared.inquire(self.group)?;
        self.shared.with(|state, library| {
            let group = &state.groups[self.group];
            let label = |rank: usize| {
                let place = group.members.iter().position(|member| *member == rank);
                place.map_or_else(String::new, |place| group.labels[place].clone())
            };
            let missing = answers.into_iter().filter_map(|(rank, answer)| match answer {
                None => Some(format!("{} (which gives no sign of life)", label(rank))),
                Some(answer) if answer.has_ended => {
                    Some(format!("{} (which finished without joining)", label(rank)))
                }
                Some(answer) if answer.issued <= self.sequence => {
                    Some(format!("{} (at call {})", label(rank), answer.issued))
                }
                Some(_) => None,
            });
            let mut missing: Vec<String> = missing.collect();
            if missing.is_empty() {
                let what = if has_arrived { "the data of all members" } else { "their headers" };
                missing.push(what.to_owned());
            }
            let error = CommError::Timeout {
                group: group.name.clone(),
                sequence: self.sequence,
                call: group.text(self.sequence),
                waited: self.shared.timeouts.collective,
                missing,
            };
            state.fail_group(library, self.group, &error);
            error
        })
    }
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        if !self.is_released {
            // Nothing to give up once the library has ended.
            let (group, sequence) = (self.group, self.sequence);
            let _ = self.shared.with(|state, _| state.groups[group].abandon(sequence));
        }
    }
}

impl fmt::Debug for PendingCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingCall").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

struct PendingReceive {
    shared: Arc<Shared>,
    group: usize,
    channel: Channel,
    ticket: u64,
    text: String,
}

impl Pending for PendingReceive {
    fn wait(self: Box<Self>) -> Result<Option<TensorData>, CommError> {
        let limit = self.shared.timeouts.receive;
        let found = self.shared.wait_for(limit, |state, _| {
            let claimed = state.groups[self.group].mail.box_.claim(self.channel, self.ticket);
            match claimed {
                Some(data) => Some(Ok(Some(data))),
                None => state.failed(self.group, &self.text).map(Err),
            }
        })?;
        found.unwrap_or_else(|| self.nothing_sent())
    }
}

impl PendingReceive {
    fn nothing_sent(&self) -> Result<Option<TensorData>, CommError> {
        let answers = self.shared.inquire(self.group)?;
        self.shared.with(|state, _| {
            let group = &state.groups[self.group];
            let (rank, sender) =
                (group.members[self.channel.from], &group.labels[self.channel.from]);
            let answer = answers.iter().find(|(from, _)| *from == rank);
            let tags = group.mail.box_.waiting_tags(self.channel.from, self.channel.to);
            if answer.is_some_and(|(_, answer)| answer.is_some_and(|answer| answer.has_ended)) {
                let reason = "finished without joining".to_owned();
                return Err(Failure::Peer { rank, reason }.seen(&self.text, &group.name));
            }
            let missing = match (tags.as_slice(), answer) {
                (_, Some((_, None))) => format!("{sender} (which gives no sign of life)"),
                ([], _) => sender.clone(),
                (tags, _) => format!("{sender} (which sent tensors under other tags: {tags:?})"),
            };
            Err(CommError::Timeout {
                group: group.name.clone(),
                sequence: self.ticket,
                call: self.text.clone(),
                waited: self.shared.timeouts.receive,
                missing: vec![missing],
            })
        })?
    }
}

impl Drop for PendingReceive {
    fn drop(&mut self) {
        // Nothing to take back once the library has ended.
        let _ = self.shared.with(|state, _| {
            state.groups[self.group].mail.box_.withdraw(self.channel, self.ticket);
        });
    }
}

impl fmt::Debug for PendingReceive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingReceive").field("text", &self.text).finish_non_exhaustive()
    }
}

fn numbered(sequence: u64, call: &str) -> String {
    format!("call {sequence}, {call},")
}
