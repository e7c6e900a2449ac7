use super::*;

const NOW: &str = "2026-11-28T23:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn reader(zone: Option<TimeZone>) -> DeliveryLog {
    let since = at("2025-01-01T00:00:00Z");
    DeliveryLog::new(["<a@x>", "b@x", "<c@x>", "<d@x>"].map(|id| (id, since)), zone, at(NOW))
}

fn read(log: &str) -> DeliveryLog {
    let mut reader = reader(Some(TimeZone::UTC));
    log.lines().for_each(|line| reader.line(line));
    reader
}

fn findings(log: &str) -> Vec<Option<Finding>> {
    let reader = read(log);
    ["a@x", "<b@x>", "<c@x>", "d@x"].map(|id| reader.finding(id).cloned()).into()
}

#[test]
fn postfix_has_taken_what_its_queue_manager_names() {
    let log = "\
Nov 28 10:00:00 postfix postfix/smtpd[7]: 4Xa: client=pod[10.0.0.1]
Nov 28 10:00:00 postfix postfix/cleanup[8]: 4Xa: message-id=<a@x>
Nov 28 10:00:00 postfix postfix/qmgr[9]: 4Xa: from=<me@x>, size=300, nrcpt=1 (queue active)
Nov 28 10:00:00 mx postfix/submission/smtpd[7]: 4Xb: client=pod[10.0.0.1]
Nov 28 10:00:00 mx postfix/cleanup[8]: 4Xb: message-id=<b@x>
Nov 28 10:00:01 mx postfix/smtpd[7]: lost connection after DATA (300 bytes) from pod[10.0.0.1]
2026-11-28T10:00:02.123456+00:00 mx postfix-in/cleanup[8]: 4Xc: message-id=<c@x>
2026-11-28T10:00:02.123456+00:00 mx postfix-in/smtp[8]: 4Xc: to=<you@x>, relay=none, delay=1, dsn=4.4.1, status=deferred (connect)";
    assert_eq!(findings(log), [Some(Finding::Taken), Some(Finding::Seen), Some(Finding::Taken), None]);
    let reader = read(log);
    assert_eq!(reader.understood(), 8);
    assert!(reader.covers(at("2026-11-28T10:00:00Z"), at("2026-11-28T10:00:02Z")));
    assert!(!reader.covers(at("2026-11-28T09:59:59Z"), at("2026-11-28T10:00:02Z")));
    assert!(!reader.covers(at("2026-11-28T10:00:00Z"), at("2026-11-28T10:00:03Z")));
}

#[test]
fn postfix_has_refused_for_good_what_it_rejected_with_a_five() {
    let reject = |id: &str, message: &str, text: &str| {
        format!("Nov 28 10:00:00 mx postfix/cleanup[8]: {id}: message-id=<{message}>\nNov 28 10:00:00 mx {text}\n")
    };
    let log = reject(
        "1",
        "a@x",
        "postfix/cleanup[8]: 1: milter-reject: END-OF-MESSAGE from pod[10.0.0.1]: 5.7.1 virus; from=<m@x> to=<y@x>",
    ) + &reject(
        "2",
        "b@x",
        "postfix/cleanup[8]: 2: reject: header Subject: lottery from pod[10.0.0.1]; from=<m@x> to=<y@x>: 5.7.1 spam",
    ) + &reject(
        "3",
        "c@x",
        "postfix/smtpd[8]: 3: reject: END-OF-MESSAGE from pod[10.0.0.1]: 450 4.7.1 <END-OF-MESSAGE>: later; from=<m@x>",
    ) + &reject(
        "4",
        "d@x",
        "postfix/cleanup[8]: 4: hold: header Subject: x from pod[10.0.0.1]; from=<m@x>: on hold",
    );
    let [a, b, c, d] = &findings(&log)[..] else { panic!("four") };
    assert_eq!(*a, Some(Finding::Refused("5.7.1 virus".into())));
    assert_eq!(*b, Some(Finding::Refused("5.7.1 spam".into())));
    assert_eq!(*c, Some(Finding::Seen), "not for good");
    assert!(matches!(d, Some(Finding::Unclear(_))), "{d:?}");
}

#[test]
fn a_queue_id_that_is_used_again_is_another_message() {
    let log = "\
Nov 28 10:00:00 mx postfix/cleanup[8]: 4Xa: message-id=<a@x>
Nov 28 10:00:09 mx postfix/smtpd[7]: 4Xa: client=other[10.0.0.2]
Nov 28 10:00:09 mx postfix/cleanup[8]: 4Xa: message-id=<stranger@x>
Nov 28 10:00:09 mx postfix/qmgr[9]: 4Xa: from=<me@x>, size=300, nrcpt=1 (queue active)
Nov 28 10:00:10 mx postfix/cleanup[8]: 4Xb: message-id=<b@x>
Nov 28 10:00:10 mx postfix/qmgr[9]: 4Xb: removed
Nov 28 10:00:11 mx postfix/cleanup[8]: 4Xb: message-id=<>
Nov 28 10:00:11 mx postfix/qmgr[9]: 4Xb: from=<me@x>, size=300, nrcpt=1 (queue active)";
    assert_eq!(findings(log), [Some(Finding::Seen), Some(Finding::Seen), None, None]);
}

#[test]
fn exim_says_what_it_took_and_shows_the_header_of_what_it_refused() {
    let log = "\
2026-11-28 10:00:00 1abCDe-0000XX-2a <= me@x H=(pod) [10.0.0.1] P=esmtp S=500 id=a@x
2026-11-28 10:00:01.123 +0100 [77] 1abCDf-0000XX-2a H=(pod) [10.0.0.1] F=<me@x> rejected after DATA: a virus
Envelope-from: <me@x>
Envelope-to: <you@x>
P Received: from pod
I Message-ID: <b@x>
2026-11-28 10:00:02 1abCDg-0000XX-2a H=(pod) [10.0.0.1] F=<me@x> temporarily rejected after DATA: later
I Message-Id: <c@x>
2026-11-28 10:00:03 1abCDe-0000XX-2a => you@x R=r T=t
I Message-Id: <d@x>";
    let refused = Finding::Refused("a virus".into());
    assert_eq!(findings(log), [Some(Finding::Taken), Some(refused), Some(Finding::Seen), None]);
    let reader = read(log);
    assert!(reader.covers(at("2026-11-28T09:00:01.123Z"), at("2026-11-28T10:00:03Z")), "the second has a zone");
}

#[test]
fn json_of_several_makers() {
    let log = r#"
{"messageId":"<a@x>","status":"Delivered","time":"2026-11-28T10:00:00Z"}
{"eventType":"Bounce","mail":{"messageId":"0102","commonHeaders":{"messageId":"<b@x>"}},"timestamp":1795860000}
{"event":"rejected","message":{"headers":{"message-id":"c@x"}},"reason":"no","timestamp":1795860000.5}
{"msgid":"d@x","event":"parked","ts":1795860001000}
{"msgid": not JSON
"#;
    let [a, b, c, d] = &findings(log)[..] else { panic!("four") };
    assert_eq!((a, b), (&Some(Finding::Taken), &Some(Finding::Taken)));
    assert_eq!(*c, Some(Finding::Refused("no".into())));
    assert_eq!(*d, Some(Finding::Unclear("parked".into())));
    let reader = read(log);
    assert_eq!(reader.understood(), 4);
    assert!(reader.covers(at("2026-11-28T10:00:00Z"), at("2026-11-28T10:00:01Z")));
}

#[test]
fn that_a_message_was_taken_once_is_what_counts() {
    let taken = r#"{"msgid":"a@x","event":"sent"}"#;
    let refused = r#"{"msgid":"a@x","event":"rejected"}"#;
    for log in [format!("{taken}\n{refused}"), format!("{refused}\n{taken}")] {
        assert_eq!(findings(&log)[0], Some(Finding::Taken));
    }
}

#[test]
fn times_without_a_zone_cover_nothing_unless_somebody_vouches_for_one() {
    let line = "Nov 28 10:00:00 mx postfix/cleanup[8]: 4Xa: message-id=<a@x>";
    let mut unsure = reader(None);
    unsure.line(line);
    let moment = at("2026-11-28T10:00:00Z");
    assert!(!unsure.covers(moment, moment));
    assert_eq!(unsure.finding("a@x"), Some(&Finding::Seen), "it is there all the same");
    let mut berlin = reader(Some(TimeZone::fixed(jiff::tz::offset(1))));
    berlin.line(line);
    let moment = at("2026-11-28T09:00:00Z");
    assert!(berlin.covers(moment, moment));
}

#[test]
fn a_time_without_a_year_does_not_lie_in_the_future() {
    let reader = read("Dec 24 10:00:00 mx postfix/cleanup[8]: 4Xa: message-id=<a@x>");
    let moment = at("2025-12-24T10:00:00Z");
    assert!(reader.covers(moment, moment));
}

#[test]
fn logs_that_do_not_follow_each_other_cover_no_gap() {
    let line = |time: &str| format!("2026-11-28T{time}Z mx postfix/cleanup[8]: 4Xa: message-id=<a@x>");
    let covers = |logs: &[[&str; 2]]| {
        let mut reader = reader(None);
        for log in logs {
            reader.begin();
            for time in log {
                reader.line(&line(time));
            }
        }
        reader.covers(at("2026-11-28T10:30:00Z"), at("2026-11-28T12:30:00Z"))
    };
    assert!(covers(&[["10:00:00", "13:00:00"]]));
    assert!(covers(&[["11:05:00", "13:00:00"], ["10:00:00", "11:00:00"]]), "in any order");
    assert!(!covers(&[["11:30:00", "13:00:00"], ["10:00:00", "11:00:00"]]));
    assert!(!covers(&[["10:00:00", "12:00:00"]]));
    assert!(!covers(&[]));
}

#[test]
fn a_line_from_before_the_message_is_about_another_one_with_its_id() {
    let line = |time: &str| format!(r#"{{"msgid":"a@x","event":"sent","time":"2026-11-28T{time}Z"}}"#);
    for (time, expected) in [("09:59:59", None), ("10:00:00", Some(&Finding::Taken))] {
        let mut reader = DeliveryLog::new([("a@x", at("2026-11-28T10:00:00Z"))], None, at(NOW));
        reader.line(&line(time));
        assert_eq!(reader.finding("a@x"), expected);
    }
}
