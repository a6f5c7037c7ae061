//! Contexts of block status: which an export has, and which of them a client wants.

use super::wire::ALLOCATION_ID;
use crate::proto::{ALLOCATION, Context, DIRTY_BITMAP};

/// The contexts that a client and a server agreed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Agreed {
    /// Whether `base:allocation` is one of them.
    pub(crate) allocation: bool,
    /// Dirty bitmaps: their places in [`Exported::bitmaps`](super::Exported::bitmaps), and their names.
    pub(crate) bitmaps: Vec<(usize, String)>,
}

/// What a client does with the contexts that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Query {
    /// It looks which there are: no name means all, and a namespace alone all in it.
    List,
    /// It chooses.
    Set,
}

/// The number by which block status names a dirty bitmap.
pub(super) fn bitmap_id(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX).saturating_add(ALLOCATION_ID).saturating_add(1)
}

/// The contexts of an export with these bitmaps that a client asks for.
pub(super) fn wanted(bitmaps: &[String], queries: &[String], query: Query) -> Agreed {
    let is_list = query == Query::List;
    let all = is_list && queries.is_empty();
    let asks = |name: &str, namespaces: &[&str]| {
        let named = |asked: &String| {
            asked == name || (is_list && namespaces.iter().any(|space| asked == space))
        };
        all || queries.iter().any(named)
    };
    let bitmaps = bitmaps.iter().enumerate();
    let bitmaps = bitmaps
        .filter(|(_, name)| asks(&format!("{DIRTY_BITMAP}{name}"), &["qemu:", DIRTY_BITMAP]))
        .map(|(place, name)| (place, name.clone()))
        .collect();
    Agreed { allocation: asks(ALLOCATION, &["base:"]), bitmaps }
}

impl Agreed {
    /// Whether no context was agreed on.
    pub(super) fn is_empty(&self) -> bool {
        !self.allocation && self.bitmaps.is_empty()
    }

    /// The answers to the client. In a list the numbers mean nothing.
    pub(super) fn answers(&self, query: Query) -> Vec<Context> {
        let id = |id| if query == Query::List { 0 } else { id };
        let allocation = self
            .allocation
            .then(|| Context { id: id(ALLOCATION_ID), name: ALLOCATION.as_bytes().to_vec() });
        let bitmaps = self.bitmaps.iter().map(|(place, name)| Context {
            id: id(bitmap_id(*place)),
            name: format!("{DIRTY_BITMAP}{name}").into_bytes(),
        });
        allocation.into_iter().chain(bitmaps).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_the_contexts_that_it_asks_for() {
        let bitmaps = ["mon".to_owned(), "tue".to_owned()];
        let ask = |queries: &[&str], query| {
            let queries: Vec<String> = queries.iter().map(|&text| text.to_owned()).collect();
            let found = wanted(&bitmaps, &queries, query);
            let names = found.answers(query).into_iter();
            names.map(|it| (it.id, String::from_utf8(it.name).expect("text"))).collect::<Vec<_>>()
        };
        let named = |all: &[(u32, &str)]| {
            all.iter().map(|(id, name)| (*id, (*name).to_owned())).collect::<Vec<_>>()
        };
        let (mon, tue) = ("qemu:dirty-bitmap:mon", "qemu:dirty-bitmap:tue");
        let all = named(&[(0, "base:allocation"), (0, mon), (0, tue)]);
        assert_eq!(ask(&[], Query::List), all);
        assert_eq!(ask(&["qemu:"], Query::List), named(&[(0, mon), (0, tue)]));
        assert_eq!(ask(&["base:"], Query::List), named(&[(0, "base:allocation")]));
        // Nothing is chosen by no name, by a namespace, or by a name that there is not.
        assert_eq!(ask(&[], Query::Set), []);
        assert_eq!(ask(&["qemu:", "base:", "qemu:dirty-bitmap:wed"], Query::Set), []);
        let chosen = ask(&["base:allocation", tue], Query::Set);
        assert_eq!(chosen, named(&[(1, "base:allocation"), (3, tue)]));
    }
}
