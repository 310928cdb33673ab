//! HELLO and everything that can be wrong before and with it.

use iris_protocol::admin::Counters;

use super::*;

async fn refused(frame: ClientFrame, code: Code) -> Node {
    let mut node = Node::connected(4_096, |_| {});
    node.client.say(&frame).await;
    node.client.hears_error(code).await;
    node.ends().await;
    node
}

fn counters(node: &Node) -> Counters {
    let mut counters = Counters::default();
    node.shared.counters.fill(&mut counters);
    counters
}

#[tokio::test(start_paused = true)]
async fn a_good_token_is_welcomed_and_the_device_is_the_tokens_the_hellos_or_default() {
    for (token, device, expected) in [("bob", None, "default"), ("bob", Some("pc"), "pc"), ("bob/tv", Some("pc"), "tv")]
    {
        let mut node = Node::connected(4_096, |_| {});
        let device = device.map(|device| DeviceId::new(device).unwrap());
        let software = String::new();
        let frame = ClientFrame::Hello { version_min: 1, version_max: 9, token: token.into(), device, software };
        node.client.say(&frame).await;
        let ServerFrame::Welcome { version, node: NodeId(1), user, device, sends_in_flight_max, idle_ms_max } =
            node.client.hears().await
        else {
            panic!("no WELCOME")
        };
        assert_eq!((version, user.as_str(), device.as_str()), (2, "bob", expected));
        assert_eq!((sends_in_flight_max, idle_ms_max), (1_024, 300_000));
        assert_eq!(node.shared.counters.sessions(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_bad_token_learns_nothing_and_is_counted() {
    let mut node = Node::connected(4_096, |_| {});
    node.client.say_all(&[hello("bad"), message(1, 1, "alice")]).await;
    let expected =
        ServerFrame::Error { code: Code::AuthFailed, retry_after_ms: 0, reason: "the token was refused".into() };
    assert_eq!(node.client.hears().await, expected);
    node.ends().await;
    assert!(node.router.script().submissions.is_empty());
    assert_eq!((counters(&node).auth_failed, counters(&node).sessions), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_begins_later_than_this_clock_shows_sends_the_client_elsewhere() {
    let mut node = Node::connected(4_096, |_| {});
    node.client.say_all(&[hello("early")]).await;
    node.client.hears_error(Code::ShuttingDown).await;
    node.ends().await;
    assert!(Code::ShuttingDown.is_retryable(), "the client tries another node");
    assert_eq!((counters(&node).auth_failed, counters(&node).sessions), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn other_versions_and_other_first_frames_are_refused() {
    let (token, software) = ("bob".to_owned(), String::new());
    let other = ClientFrame::Hello { version_min: 3, version_max: 4, token, device: None, software };
    refused(other, Code::UnsupportedVersion).await;
    refused(ClientFrame::Ping { nonce: 1 }, Code::NotLoggedIn).await;
    refused(message(1, 1, "alice"), Code::NotLoggedIn).await;
}

#[tokio::test(start_paused = true)]
async fn a_large_frame_before_login_is_refused_by_its_length_alone() {
    let mut node = Node::connected(4_096, |_| {});
    node.client.say_bytes(&4_609u32.to_be_bytes()).await;
    node.client.hears_error(Code::Malformed).await;
    node.ends().await;
    assert_eq!(counters(&node).bad_frames, 1);
}

#[tokio::test(start_paused = true)]
async fn a_second_hello_is_malformed() {
    let mut node = Node::logged_in(|_| {}).await;
    node.client.say(&hello("bob")).await;
    node.client.hears_error(Code::Malformed).await;
    node.ends().await;
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_cut_off_after_the_logins_time() {
    let begun = Instant::now();
    let mut node = Node::connected(4_096, |options| options.login = Duration::from_secs(4));
    node.client.hears_error(Code::Timeout).await;
    assert_eq!(begun.elapsed().as_secs(), 4);
    node.ends().await;
}

#[tokio::test(start_paused = true)]
async fn frames_right_behind_hello_are_served() {
    let mut node = Node::connected(64 * 1024, |_| {});
    node.client.say_all(&[hello("bob"), ClientFrame::Ping { nonce: 7 }, message(1, 1, "alice")]).await;
    assert!(matches!(node.client.hears().await, ServerFrame::Welcome { .. }));
    assert_eq!(node.client.hears().await, ServerFrame::Pong { nonce: 7 });
    node.router.answer(committed(1)).await;
    node.client.hears_accepted(1).await;
}
