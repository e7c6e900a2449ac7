//! Looking at dead letters: page by page, in bounded memory here and in Redis.

use redis::cmd;

use super::{DeadLetter, Filter};
use crate::{
    queue::{
        Queue,
        long::limit,
        scripts::{self, number},
    },
    store::StoreError,
};

/// How many dead letters one command looks at.
const PAGE: usize = 100;
/// How many bytes of them it looks at.
const PAGE_BYTES: usize = 1024 * 1024;
/// Up to this length a dead letter that is wanted whole comes with its page.
pub(super) const WITH_PAGE: usize = 16 * 1024;
/// How often a walk begins anew since others act on the same list.
pub(super) const BEGINNINGS: usize = 1_000;

/// A dead letter without its payload, and where it lies.
pub(super) struct Head {
    /// From the end of the list, negative; right until an older one goes.
    pub place: isize,
    /// Bytes of the whole entry.
    pub length: usize,
    /// The entry up to its payload, or all of it.
    pub begin: Vec<u8>,
    pub letter: DeadLetter,
}

impl Head {
    fn read(place: isize, length: usize, begin: Vec<u8>) -> Self {
        let letter = if begin.len() == length {
            DeadLetter::decode(&begin)
        } else {
            serde_json::from_slice(&[&begin, b"}".as_slice()].concat()).unwrap_or_default()
        };
        Self { place, length, begin, letter }
    }

    pub(super) fn is_whole(&self) -> bool {
        self.begin.len() == self.length
    }
}

/// A letter by which a walk knows again where it is.
struct Mark {
    place: isize,
    length: usize,
    begin: Vec<u8>,
}

/// One page of a walk.
pub(super) struct Page {
    /// Oldest first; none at the newest end of the list.
    pub heads: Vec<Head>,
    /// The walk begins anew: what is in this page may have been seen before.
    pub anew: bool,
}

/// From the oldest dead letter to the newest. Others may act on the list meanwhile: what they take moves all that is newer
/// towards the end, and is noticed by where the last letter lies.
pub(super) struct Walk<'a> {
    queue: &'a Queue,
    /// Up to which length letters come whole.
    whole: usize,
    /// Where the next page begins.
    place: isize,
    /// The last letter of the page before.
    mark: Option<Mark>,
    beginnings: usize,
}

impl<'a> Walk<'a> {
    pub(super) fn new(queue: &'a Queue, whole: usize) -> Self {
        Self { queue, whole, place: -1, mark: None, beginnings: BEGINNINGS }
    }

    /// The next page.
    pub(super) async fn page(&mut self) -> Result<Page, StoreError> {
        let mut anew = false;
        loop {
            if let Some(heads) = self.queue.letters_from(self.place, self.whole, self.mark.as_ref()).await? {
                if let Some(last) = heads.last() {
                    self.place = last.place - 1;
                    self.mark = Some(Mark { place: last.place, length: last.length, begin: last.begin.clone() });
                }
                return Ok(Page { heads, anew });
            }
            anew |= !self.find().await?;
        }
    }

    /// Looks for the mark nearer to the end; without it the walk begins anew.
    async fn find(&mut self) -> Result<bool, StoreError> {
        let Some(mark) = self.mark.take() else { return Ok(true) };
        let mut span = isize::try_from(PAGE).unwrap_or(isize::MAX);
        loop {
            let mut place = mark.place.saturating_add(span).min(-1);
            let is_end = place == -1;
            while place > mark.place {
                let heads = self.queue.letters_from(place, 0, None).await?.unwrap_or_default();
                let Some(last) = heads.last() else { break };
                place = last.place - 1;
                let is_it = |head: &&Head| head.length == mark.length && begin_alike(&head.begin, &mark.begin);
                if let Some(found) = heads.iter().find(is_it) {
                    self.place = found.place - 1;
                    self.mark = Some(Mark { place: found.place, ..mark });
                    return Ok(true);
                }
            }
            if is_end {
                return Ok(!self.begin_anew());
            }
            span = span.saturating_mul(8);
        }
    }

    /// Goes back to the oldest letter; not for ever.
    pub(super) fn begin_anew(&mut self) -> bool {
        self.mark = None;
        if self.beginnings == 0 {
            return false;
        }
        self.beginnings -= 1;
        self.place = -1;
        true
    }

    /// Letters at these places are gone, and we know of it.
    pub(super) fn gone(&mut self, places: &[isize]) {
        let moved = |from: isize| places.iter().filter(|place| **place > from).count().cast_signed();
        self.place += places.len().cast_signed();
        self.mark = self.mark.take().filter(|mark| !places.contains(&mark.place));
        if let Some(mark) = &mut self.mark {
            mark.place += moved(mark.place);
        }
    }
}

/// Whether two beginnings may be of the same entry: one may have come whole and the other not.
fn begin_alike(one: &[u8], other: &[u8]) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

impl Queue {
    /// Dead letters that fit, oldest first, at most `limit`, without their payloads ([`Queue::dead_show`] has them).
    pub async fn dead_list(&self, filter: &Filter, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        let mut letters = Vec::new();
        let keep = |page| {
            letters.extend(page);
            Ok::<_, StoreError>(())
        };
        self.dead_pages(filter, limit, keep).await?;
        Ok(letters)
    }

    /// The same page by page, in bounded memory here and in Redis, until `show` fails. Pages may be short, and are never
    /// empty. When others act on the list meanwhile, a letter may come twice; none is left out.
    pub async fn dead_pages<E: From<StoreError>>(
        &self,
        filter: &Filter,
        limit: usize,
        mut show: impl FnMut(Vec<DeadLetter>) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut walk, mut left) = (Walk::new(self, 0), limit);
        while left > 0 {
            let heads = walk.page().await?.heads;
            if heads.is_empty() {
                break;
            }
            let letters = heads.into_iter().map(|head| head.letter.without_payload());
            let page: Vec<_> = letters.filter(|letter| letter.fits(filter)).take(left).collect();
            left -= page.len();
            if !page.is_empty() {
                show(page)?;
            }
        }
        Ok(())
    }

    /// The oldest dead letter of this id, with its payload.
    pub async fn dead_show(&self, id: &str) -> Result<Option<DeadLetter>, StoreError> {
        let filter = Filter::id(id);
        let mut walk = Walk::new(self, WITH_PAGE);
        loop {
            let heads = walk.page().await?.heads;
            if heads.is_empty() {
                return Ok(None);
            }
            if let Some(head) = heads.into_iter().find(|head| head.letter.fits(&filter)) {
                match self.whole(head).await? {
                    Some(letter) => return Ok(Some(letter)),
                    // Others act on the list meanwhile.
                    None if walk.begin_anew() => {}
                    None => return Ok(None),
                }
            }
        }
    }

    /// Dead letters from this place on, oldest first; those up to `whole` bytes with their payloads. Nothing when `mark` is
    /// not where it was.
    async fn letters_from(
        &self,
        place: isize,
        whole: usize,
        mark: Option<&Mark>,
    ) -> Result<Option<Vec<Head>>, StoreError> {
        let words = [place.to_string(), PAGE.to_string(), PAGE_BYTES.to_string(), whole.to_string()];
        let known = mark.map_or_else(Default::default, |mark| (mark.place.to_string(), mark.length.to_string()));
        let mut arguments: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
        arguments.extend([known.0.as_bytes(), known.1.as_bytes(), mark.map_or(b"", |mark| &mark.begin)]);
        let answer: Vec<Vec<u8>> = self.run_long(&scripts::LETTERS, &[], &arguments, PAGE_BYTES).await?;
        let mut words = answer.into_iter();
        if words.next().is_some_and(|word| word == b"moved") {
            return Ok(None);
        }
        let (mut heads, mut place) = (Vec::new(), place);
        while let (Some(length), Some(begin)) = (words.next(), words.next()) {
            let length = number(&length).ok_or_else(|| self.garbled("a dead letter without a length".into()))?;
            heads.push(Head::read(place, length, begin));
            place -= 1;
        }
        Ok(Some(heads))
    }

    /// The letter with its payload; none when it lies there no more.
    pub(super) async fn whole(&self, head: Head) -> Result<Option<DeadLetter>, StoreError> {
        if head.is_whole() {
            return Ok(Some(head.letter));
        }
        let mut command = cmd("LINDEX");
        command.arg(self.names.dead_letter()).arg(head.place);
        let entry: Option<Vec<u8>> = self.store.for_bodies().query(&command, limit(head.length)).await?;
        let entry = entry.filter(|entry| entry.len() == head.length && entry.starts_with(&head.begin));
        Ok(entry.map(|entry| DeadLetter::decode(&entry)))
    }
}
