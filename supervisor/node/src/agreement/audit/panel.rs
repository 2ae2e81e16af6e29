//! Asking several nodes the same question at the same time, and no node twice about one height.

use std::collections::BTreeMap;
use std::thread;

use super::error::AuditError;
use super::node::{About, ChainDigest, Node, NodeError};

/// What a node says about a height.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The digest there.
    Digest(ChainDigest),
    /// Its chain begins at this height only.
    Before(u32),
}

/// The nodes, and what they have answered.
pub(super) struct Panel<'a> {
    nodes: &'a [&'a dyn Node],
    /// Of each node, by height.
    answers: Vec<BTreeMap<u32, Answer>>,
}

impl<'a> Panel<'a> {
    pub(super) fn new(nodes: &'a [&'a dyn Node]) -> Self {
        Self { nodes, answers: vec![BTreeMap::new(); nodes.len()] }
    }

    /// What every node says of itself.
    pub(super) fn about(&self) -> Result<Vec<About>, AuditError> {
        let all: Vec<_> = (0..self.nodes.len()).collect();
        self.ask(&all, |node| node.about())
    }

    /// What the nodes `of` say about `height`, one answer for each.
    pub(super) fn digests(&mut self, height: u32, of: &[usize]) -> Result<Vec<Answer>, AuditError> {
        let unknown: Vec<_> =
            of.iter().copied().filter(|node| !self.answers[*node].contains_key(&height)).collect();
        let answers = self.ask(&unknown, |node| match node.digest(height) {
            Ok(digest) => Ok(Answer::Digest(digest)),
            Err(NodeError::BeforeStart { start, .. }) => Ok(Answer::Before(start)),
            Err(error) => Err(error),
        })?;
        for (node, answer) in unknown.into_iter().zip(answers) {
            self.answers[node].insert(height, answer);
        }
        Ok(of.iter().map(|node| self.answers[*node][&height]).collect())
    }

    /// What two nodes say about `height`.
    pub(super) fn pair(&mut self, height: u32, of: [usize; 2]) -> Result<[Answer; 2], AuditError> {
        let answers = self.digests(height, &of)?;
        Ok([answers[0], answers[1]])
    }

    /// Puts one question to the nodes `of`, each on a thread of its own.
    fn ask<T: Send>(
        &self,
        of: &[usize],
        question: impl Fn(&dyn Node) -> Result<T, NodeError> + Sync,
    ) -> Result<Vec<T>, AuditError> {
        let question = &question;
        let answers = thread::scope(|scope| {
            let mut asked = Vec::new();
            for node in of.iter().map(|node| self.nodes[*node]) {
                let thread = thread::Builder::new().name("cofferdam-audit".to_owned());
                let handle =
                    thread.spawn_scoped(scope, move || question(node)).map_err(AuditError::Thread)?;
                asked.push((node.name(), handle));
            }
            let joined = asked
                .into_iter()
                .map(|(name, handle)| Ok((name, handle.join().map_err(|_| AuditError::Panicked)?)));
            joined.collect::<Result<Vec<_>, AuditError>>()
        })?;
        let (mut given, mut missing) = (Vec::new(), Vec::new());
        for (name, answer) in answers {
            match answer {
                Ok(answer) => given.push(answer),
                Err(error) => missing.push((name.to_owned(), error)),
            }
        }
        if missing.is_empty() { Ok(given) } else { Err(AuditError::Nodes(missing)) }
    }
}
