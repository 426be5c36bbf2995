//! A promotion rests on the other side's own, present word, or it does not happen.

use domicile_model::token::Lsn;
use domicile_model::{LeaderFence, Revision, WorldId};
use proptest::prelude::*;

use super::*;

struct Scene {
    key: PrivateKey,
    agent: AgentKey,
    own: RegionId,
    order: Token,
    token: HandoverToken,
}

fn region(text: &str) -> RegionId {
    RegionId::new(text).unwrap()
}

fn scene() -> Scene {
    let key = PrivateKey::generate().unwrap();
    let cell = CellId::new("mercy-health").unwrap();
    let fence = Token {
        world: WorldId::new(),
        leader: LeaderFence(Revision(40)),
        attempt: 51,
        moving: MoveId::new(),
        step: "fence".into(),
        cell: cell.clone(),
    };
    let order = Token { attempt: 53, step: "promote".into(), ..fence.clone() };
    let bare = HandoverToken {
        cell: cell.clone(),
        epoch: Epoch(7),
        system_id: "7300".into(),
        timeline: 3,
        checkpoint: Lsn(0x16_B374_D848),
        token: fence,
        seal: None,
    };
    let agent = AgentKey { cell, region: region("us-east-1"), key: published(&key.public()), by: None };
    let token = sign(&key, &agent.region, bare).unwrap();
    Scene { key, agent, own: region("us-west-2"), order, token }
}

impl Scene {
    fn check(&self, token: &HandoverToken) -> Result<(), HandoverError> {
        let (cell, own, order) = (&self.order.cell, &self.own, &self.order);
        check(token, &Expected { cell, own, epoch: Epoch(7), order, trusted: Some(&self.agent) })
    }

    /// Signed by the right agent, but saying something else.
    fn signed(&self, change: impl FnOnce(&mut HandoverToken)) -> HandoverToken {
        let mut token = self.token.clone();
        change(&mut token);
        sign(&self.key, &self.agent.region, token).unwrap()
    }
}

#[test]
fn the_other_sides_present_word_counts_also_after_a_change_of_leader() {
    let scene = scene();
    assert_eq!(scene.check(&scene.token), Ok(()));
    // It goes through the registry's record and back.
    let text = serde_json::to_string(&scene.token).unwrap();
    assert_eq!(scene.check(&serde_json::from_str(&text).unwrap()), Ok(()));
    // The old primary was fenced by the leader before this one, and does not answer any more.
    let later = Scene {
        order: Token { leader: LeaderFence(Revision(44)), attempt: 52, ..scene.order.clone() },
        ..scene
    };
    assert_eq!(later.check(&later.token), Ok(()));
}

#[test]
fn every_other_token_is_refused_and_the_sentence_says_why() {
    let s = scene();
    let missing = HandoverToken { seal: None, ..s.token.clone() };
    let stranger = sign(&PrivateKey::generate().unwrap(), &s.agent.region, s.token.clone()).unwrap();
    let elsewhere = sign(&s.key, &region("eu-west-1"), s.token.clone()).unwrap();
    let own = sign(&s.key, &s.own, s.token.clone()).unwrap();
    let tampered = HandoverToken { checkpoint: Lsn(1), ..s.token.clone() };
    for (token, word) in [
        (missing, "is not signed"),
        (stranger, "not among the trusted keys"),
        (elsewhere, "trusts no key of the agent of cell mercy-health in eu-west-1"),
        (own, "the very region that shall take over"),
        (tampered, "was changed since"),
        (s.signed(|t| t.cell = CellId::new("other").unwrap()), "is of cell other"),
        (s.signed(|t| t.token.cell = CellId::new("other").unwrap()), "is of cell other"),
        (s.signed(|t| t.epoch = Epoch(6)), "the close at epoch 6"),
        (s.signed(|t| t.epoch = Epoch(8)), "the close at epoch 8"),
        (s.signed(|t| t.token.moving = MoveId::new()), "of another fence"),
        (s.signed(|t| t.token.world = WorldId::new()), "of another fence"),
        (s.signed(|t| t.token.attempt = 54), "younger than this order"),
        (s.signed(|t| t.token.leader = LeaderFence(Revision(41))), "younger than this order"),
    ] {
        let refused = s.check(&token).unwrap_err().to_string();
        assert!(refused.contains(word), "{refused} lacks {word}");
    }
    let (cell, own, order) = (&s.order.cell, &s.own, &s.order);
    let nobody = Expected { cell, own, epoch: Epoch(7), order, trusted: None };
    assert!(matches!(check(&s.token, &nobody), Err(HandoverError::NoKey { .. })));
}

#[test]
fn a_trusted_key_whose_id_is_another_keys_is_no_key() {
    let mut s = scene();
    s.agent.key.id = PrivateKey::generate().unwrap().public().id().to_string();
    assert!(matches!(s.check(&s.token.clone()), Err(HandoverError::Text { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// One character of what goes over the wire is another one.
    #[test]
    fn any_changed_character_of_a_token_is_found(at in any::<prop::sample::Index>(), to in prop::char::range(' ', '~')) {
        let s = scene();
        let mut text: Vec<char> = serde_json::to_string(&s.token).unwrap().chars().collect();
        let at = at.index(text.len());
        text[at] = to;
        let text: String = text.into_iter().collect();
        if let Ok(changed) = serde_json::from_str::<HandoverToken>(&text) {
            prop_assert_eq!(s.check(&changed).is_ok(), changed == s.token, "{}", text);
        }
    }
}
