//! A relay that gets another queue while mail is in every state, and the one before again.

use mailrelay::{
    mail::Priority,
    queue::{Queue, QueueNames},
};

use super::life::{Life, again};

/// The queues that the relay has in turn.
pub fn queues() -> [QueueNames; 2] {
    ["mail", "other"].map(|name| QueueNames::new(&format!("{name}_queue"), &format!("{name}_dead_letter_queue")))
}

/// Where producers push to, and blocked workers.
pub fn lists(queue: &Queue) -> [String; 4] {
    let names = queue.names();
    let list = |priority| names.list(priority).to_owned();
    [list(Priority::Normal), list(Priority::High), list(Priority::Low), names.arrived().to_owned()]
}

/// One of its other keys.
pub fn key_of(queue: &Queue, key: &str) -> String {
    format!("{{{}}}:{key}", queue.names().queue())
}

impl Life<'_> {
    /// One that the relay has, or had.
    pub fn any_queue(&mut self) -> Queue {
        let which = if self.renames { self.some(self.queues.len()) } else { self.named };
        self.queues[which].clone()
    }

    /// The relay gets this queue. Workers take from it from now on, with a handle that knows of nothing; what they have in
    /// hand ends where it came from, and what was lost on the way to them is given back there.
    pub async fn rename(&mut self, to: usize) {
        let names = queues()[to].clone();
        (self.named, self.queue) = (to, self.queues[to].clone());
        for worker in &mut self.workers {
            let old = std::mem::replace(&mut worker.queue, self.courier.queue_of(names.clone()));
            again(async || old.return_lost_claims(&worker.process, self.now).await).await;
        }
    }
}
