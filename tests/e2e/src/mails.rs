//! Mails to send.

use serde_json::{Value, json};

/// Mail number `index` of a batch, as a producer would push it. Its id is `<batch>-<index>`.
pub fn mail(batch: &str, index: usize) -> Value {
    json!({
        "id": format!("{batch}-{index}"),
        "from": "Orders <orders@example.com>",
        "to": [format!("customer-{index}@example.net")],
        "subject": format!("Order {index}"),
        "text": format!("Thank you for order {index} of batch {batch}.\n"),
    })
}

/// The same with a text of about so many bytes.
pub fn large_mail(batch: &str, index: usize, bytes: usize) -> Value {
    const LINE: &str = "Sixty-four bytes of a text that nobody reads, again and again.\n";
    let mut mail = mail(batch, index);
    mail["text"] = json!(LINE.repeat(bytes.div_ceil(LINE.len())));
    mail
}

/// A batch as newline-delimited JSON, for `mailrelay send --lines`.
pub fn lines(batch: &str, count: usize) -> String {
    (0..count).flat_map(|index| [mail(batch, index).to_string(), "\n".into()]).collect()
}

/// The mail's id in a Message-ID that mailrelay made.
pub fn id_of(message_id: &str) -> Option<&str> {
    message_id.trim_matches(['<', '>']).split_once('@').map(|(id, _)| id)
}
