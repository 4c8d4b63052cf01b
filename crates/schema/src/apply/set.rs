//! Sets of paths: what a manager owns, what a change touched.

use std::cmp::Ordering;

use super::step::Step;

/// A set of paths, as a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// Sorted by step; no node is empty.
    nodes: Vec<(Step, Node)>,
}

/// What a set has at and below one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    /// Whether the path that ends here is in the set.
    pub(super) member: bool,
    /// The paths that go on.
    pub(super) below: Set,
}

impl Node {
    pub(super) const LEAF: Self = Self { member: true, below: Set { nodes: Vec::new() } };

    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

impl Set {
    /// The set of these paths of fields.
    pub fn of(paths: &[&[&str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            set.insert(&path.iter().map(|name| Step::field(name)).collect::<Vec<_>>());
        }
        set
    }

    /// Whether there is no path in it.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Puts a path in. The empty path is the whole object, which nobody owns.
    pub fn insert(&mut self, path: &[Step]) {
        let Some((last, before)) = path.split_last() else { return };
        let mut set = self;
        for step in before {
            set = &mut set.node(step.clone()).below;
        }
        set.node(last.clone()).member = true;
    }

    /// Whether the path is in it.
    pub fn has(&self, path: &[Step]) -> bool {
        let Some((last, before)) = path.split_last() else { return false };
        let mut set = self;
        for step in before {
            match set.get(step) {
                Some(node) => set = &node.below,
                None => return false,
            }
        }
        set.get(last).is_some_and(|node| node.member)
    }

    pub(super) fn get(&self, step: &Step) -> Option<&Node> {
        self.find(step).ok().map(|at| &self.nodes[at].1)
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = (&Step, &Node)> {
        self.nodes.iter().map(|(step, node)| (step, node))
    }

    /// Adds a node to those that are there at this step.
    pub(super) fn add(&mut self, step: Step, node: Node) {
        if node.is_empty() {
            return;
        }
        match self.find(&step) {
            Err(at) => self.nodes.insert(at, (step, node)),
            Ok(at) => {
                let there = &mut self.nodes[at].1;
                there.member |= node.member;
                there.below = there.below.union(&node.below);
            }
        }
    }

    /// The node at a step, made if it is not there; the caller puts something in.
    fn node(&mut self, step: Step) -> &mut Node {
        let at = self.find(&step).unwrap_or_else(|at| {
            self.nodes.insert(at, (step, Node::default()));
            at
        });
        &mut self.nodes[at].1
    }

    fn find(&self, step: &Step) -> Result<usize, usize> {
        // What is added mostly comes in order.
        match self.nodes.last() {
            Some((last, _)) if last < step => Err(self.nodes.len()),
            _ => self.nodes.binary_search_by(|(there, _)| there.cmp(step)),
        }
    }

    /// What is in either.
    pub fn union(&self, other: &Self) -> Self {
        if self.is_empty() || other.is_empty() {
            return if self.is_empty() { other.clone() } else { self.clone() };
        }
        self.zip(other, &|a, b| match (a, b) {
            (Some(a), Some(b)) => Node { member: a.member || b.member, below: a.below.union(&b.below) },
            (Some(one), None) | (None, Some(one)) => one.clone(),
            (None, None) => Node::default(),
        })
    }

    /// What is in both.
    pub fn intersection(&self, other: &Self) -> Self {
        self.zip(other, &|a, b| match (a, b) {
            (Some(a), Some(b)) => {
                Node { member: a.member && b.member, below: a.below.intersection(&b.below) }
            }
            _ => Node::default(),
        })
    }

    /// What is in this one only.
    pub fn difference(&self, other: &Self) -> Self {
        if other.is_empty() {
            return self.clone();
        }
        self.zip(other, &|a, b| match (a, b) {
            (Some(a), Some(b)) => Node { member: a.member && !b.member, below: a.below.difference(&b.below) },
            (Some(a), None) => a.clone(),
            (None, _) => Node::default(),
        })
    }

    /// What is neither in the other one nor below something that is.
    pub fn difference_below(&self, other: &Self) -> Self {
        self.zip(other, &|a, b| match (a, b) {
            (Some(a), Some(b)) if !b.member => {
                Node { member: a.member, below: a.below.difference_below(&b.below) }
            }
            (Some(a), None) => a.clone(),
            _ => Node::default(),
        })
    }

    fn zip(&self, other: &Self, join: &dyn Fn(Option<&Node>, Option<&Node>) -> Node) -> Self {
        let (mut left, mut right) = (self.nodes.iter().peekable(), other.nodes.iter().peekable());
        let mut nodes = Vec::with_capacity(self.nodes.len());
        loop {
            let order = match (left.peek(), right.peek()) {
                (None, None) => return Self { nodes },
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((a, _)), Some((b, _))) => a.cmp(b),
            };
            let a = if order.is_le() { left.next() } else { None };
            let b = if order.is_ge() { right.next() } else { None };
            let Some((step, _)) = a.or(b) else { return Self { nodes } };
            let node = join(a.map(|(_, node)| node), b.map(|(_, node)| node));
            if !node.is_empty() {
                nodes.push((step.clone(), node));
            }
        }
    }

    /// Every path, in the order of Kubernetes: those that end at a step before those that go on.
    pub fn paths(&self) -> Vec<Vec<Step>> {
        let mut paths = Vec::new();
        self.collect(&mut Vec::new(), &mut paths);
        paths
    }

    fn collect(&self, path: &mut Vec<Step>, paths: &mut Vec<Vec<Step>>) {
        for (step, _) in self.nodes.iter().filter(|(_, node)| node.member) {
            path.push(step.clone());
            paths.push(path.clone());
            path.pop();
        }
        for (step, node) in &self.nodes {
            path.push(step.clone());
            node.below.collect(path, paths);
            path.pop();
        }
    }

    /// Only what one of the patterns leads to; an empty step of a pattern is any step.
    pub(super) fn matching(&self, patterns: &[&[&str]]) -> Self {
        let mut set = Self::default();
        for (step, node) in &self.nodes {
            let fits = |pattern: &&&[&str]| match (pattern.first(), step) {
                (Some(&""), _) => true,
                (Some(name), Step::Field(field)) => **field == **name,
                _ => false,
            };
            let rest: Vec<&[&str]> = patterns.iter().filter(fits).map(|pattern| &pattern[1..]).collect();
            let below = match rest.iter().any(|pattern| pattern.is_empty()) {
                true => node.below.clone(),
                false => node.below.matching(&rest),
            };
            set.add(step.clone(), Node { member: node.member && !rest.is_empty(), below });
        }
        set
    }
}
