//! What a dispatcher decides while it deploys: which step of which stage comes next.
//!
//! Pure: events in, actions out. Stages are prepared, shipped and loaded in parallel, each at its own pace;
//! they connect only when all are loaded, so that a connection always finds its stage, and when the plan stands:
//! loaded stages may be measured and given up for better ones. The path of items has a state machine of its own,
//! [`super::delivery`].

use wire::control::WeightHash;

/// Why a deployment came to nothing; the reason names the node that did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A node refused, or failed at what it was asked to do.
    Refused(String),
    /// A node went, keeps silent, or cannot be reached.
    Lost(String),
    /// It is the dispatcher's own.
    Own(String),
}

impl From<Failure> for String {
    fn from(failure: Failure) -> String {
        match failure {
            Failure::Refused(reason) | Failure::Lost(reason) | Failure::Own(reason) => reason,
        }
    }
}

/// Something happened. Stages are numbered along the chain, each replica of one for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Deploying begins.
    Begun,
    /// A node has taken its stage on; it lacks these weights.
    Prepared(usize, Vec<WeightHash>),
    /// The weights are there.
    Shipped(usize),
    /// The session is built.
    Loaded(usize),
    /// The plan stands, now that its stages are loaded.
    Approved,
    /// The stage is connected to the next.
    Connected(usize),
    /// The dispatcher is connected to both ends of the chain.
    Opened,
    /// A step failed, a node left, a link broke.
    Failed(Failure),
    /// The user is done, and every result was handed out.
    Finished,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Give the node its order.
    Prepare(usize),
    /// Send the weights it lacks.
    Ship(usize, Vec<WeightHash>),
    /// Have it build its session.
    Load(usize),
    /// All stages are loaded: approve the plan, or be done with it.
    Decide,
    /// Have it connect to the next stage.
    Connect(usize),
    /// Connect to the first stage and to the last.
    Open,
    /// Items may flow.
    Run,
    /// Have every node give its stage up.
    Release,
    /// Tell the user: nothing more can be done with this deployment.
    Fail(Failure),
}

/// The state of one deployment.
#[derive(Debug)]
pub struct State {
    stages: Vec<Progress>,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    Ordered,
    Shipping,
    Loading,
    Loaded,
    Connected,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    New,
    Loading,
    Loaded,
    Connecting,
    Opening,
    Running,
    Over,
}

impl State {
    /// A chain of `stages` stages, nothing done yet.
    ///
    /// # Panics
    /// Without stages.
    pub fn new(stages: usize) -> State {
        assert!(stages > 0, "a chain has at least one stage");
        State { stages: vec![Progress::Ordered; stages], phase: Phase::New }
    }

    /// Takes an event in; says what to do. Events of steps that were overtaken by a failure say nothing.
    pub fn on_event(&mut self, event: Event) -> Vec<Action> {
        use Progress::{Connected, Loaded, Loading, Ordered, Shipping};
        if self.phase == Phase::Over {
            return vec![];
        }
        match event {
            Event::Begun => {
                self.enter(Phase::New, Phase::Loading);
                (0..self.stages.len()).map(Action::Prepare).collect()
            }
            Event::Prepared(stage, missing) if missing.is_empty() => {
                self.advance(stage, Ordered, Loading);
                vec![Action::Load(stage)]
            }
            Event::Prepared(stage, missing) => {
                self.advance(stage, Ordered, Shipping);
                vec![Action::Ship(stage, missing)]
            }
            Event::Shipped(stage) => {
                self.advance(stage, Shipping, Loading);
                vec![Action::Load(stage)]
            }
            Event::Loaded(stage) => {
                self.advance(stage, Loading, Loaded);
                if !self.all(Loaded) {
                    return vec![];
                }
                self.enter(Phase::Loading, Phase::Loaded);
                vec![Action::Decide]
            }
            Event::Approved => {
                self.enter(Phase::Loaded, Phase::Connecting);
                (0..self.stages.len()).map(Action::Connect).collect()
            }
            Event::Connected(stage) => {
                self.advance(stage, Loaded, Connected);
                if !self.all(Connected) {
                    return vec![];
                }
                self.enter(Phase::Connecting, Phase::Opening);
                vec![Action::Open]
            }
            Event::Opened => {
                self.enter(Phase::Opening, Phase::Running);
                vec![Action::Run]
            }
            Event::Failed(failure) => {
                self.phase = Phase::Over;
                vec![Action::Release, Action::Fail(failure)]
            }
            Event::Finished => {
                self.phase = Phase::Over;
                vec![Action::Release]
            }
        }
    }

    fn all(&self, progress: Progress) -> bool {
        self.stages.iter().all(|&p| p == progress)
    }

    /// The driver answers each action once, so another progress is our own mistake.
    fn advance(&mut self, stage: usize, from: Progress, to: Progress) {
        assert_eq!(self.stages[stage], from, "stage {stage} cannot become {to:?}");
        self.stages[stage] = to;
    }

    fn enter(&mut self, from: Phase, to: Phase) {
        assert_eq!(self.phase, from, "the deployment cannot become {to:?}");
        self.phase = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(reason: &str) -> Failure {
        Failure::Lost(reason.to_owned())
    }

    fn hash(n: u8) -> WeightHash {
        [n; 32]
    }

    #[test]
    fn stages_go_at_their_own_pace_and_connect_together() {
        let mut s = State::new(2);
        let mut expect = |event, actions: &[Action]| assert_eq!(s.on_event(event), actions);
        expect(Event::Begun, &[Action::Prepare(0), Action::Prepare(1)]);
        expect(Event::Prepared(1, vec![]), &[Action::Load(1)]);
        expect(Event::Loaded(1), &[]);
        expect(Event::Prepared(0, vec![hash(1)]), &[Action::Ship(0, vec![hash(1)])]);
        expect(Event::Shipped(0), &[Action::Load(0)]);
        expect(Event::Loaded(0), &[Action::Decide]);
        expect(Event::Approved, &[Action::Connect(0), Action::Connect(1)]);
        expect(Event::Connected(0), &[]);
        expect(Event::Connected(1), &[Action::Open]);
        expect(Event::Opened, &[Action::Run]);
        expect(Event::Finished, &[Action::Release]);
        expect(Event::Failed(lost("late")), &[]);
    }

    #[test]
    fn a_failure_releases_everything_once_and_late_answers_change_nothing() {
        let mut s = State::new(2);
        s.on_event(Event::Begun);
        let failed = s.on_event(Event::Failed(lost("gone")));
        assert_eq!(failed, [Action::Release, Action::Fail(lost("gone"))]);
        for late in [Event::Prepared(0, vec![]), Event::Loaded(1), Event::Failed(lost("again"))] {
            assert_eq!(s.on_event(late), []);
        }
    }

    #[test]
    fn a_plan_that_does_not_stand_is_released() {
        let mut s = State::new(1);
        s.on_event(Event::Begun);
        s.on_event(Event::Prepared(0, vec![]));
        assert_eq!(s.on_event(Event::Loaded(0)), [Action::Decide]);
        assert_eq!(s.on_event(Event::Finished), [Action::Release]);
    }

    #[test]
    #[should_panic(expected = "stage 0 cannot become Loaded")]
    fn answers_to_what_was_not_asked_are_our_own_mistake() {
        let mut s = State::new(1);
        s.on_event(Event::Begun);
        s.on_event(Event::Loaded(0));
    }
}
