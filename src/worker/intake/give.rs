//! Gives a mail to a session that asks for one.

use std::collections::VecDeque;

use crate::worker::{pace::Permits, requests::Wish, settle::Work};

/// Gives a mail to the first session that is still there and may have it; the mail again when none is. With `permits`: a
/// session for whose server leave to send is left, which goes with the mail. Without: one of a server that the mail fits.
pub(super) fn give(mut work: Work, sessions: &mut VecDeque<Wish>, mut permits: Option<&mut [Permits]>) -> Option<Work> {
    loop {
        let found = sessions.iter().enumerate().find_map(|(at, wish)| match &permits {
            Some(permits) => Some((at, Some(leave_for(wish, permits)?))),
            None => work.fits(&wish.server).then_some((at, None)),
        });
        let Some((at, leave)) = found else { return Some(work) };
        let Some(wish) = sessions.remove(at) else { return Some(work) };
        let mut leave = permits.as_deref_mut().zip(leave).map(|(permits, of)| &mut permits[of]);
        if let Some(leave) = &mut leave {
            work.permit = leave.split_one();
        }
        match wish.session.send(work) {
            Ok(()) => return None,
            Err(returned) => {
                work = returned;
                if let Some(leave) = leave {
                    leave.join(work.permit.take());
                }
            }
        }
    }
}

/// Which of the permits still has leave for a mail to this session's server.
fn leave_for(wish: &Wish, permits: &[Permits]) -> Option<usize> {
    permits.iter().position(|permits| permits.count() > 0 && permits.is_of(&wish.pace))
}
