//! The rules of the protocol, each of which can be dropped to see what it is for.

/// One rule of `docs/adr/0080`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Rule {
    /// A value is chosen when a majority of acceptors has stored it.
    MajorityDecides,
    /// A raise is activated when it is chosen, and not before.
    ActivateWhenChosen,
    /// An acceptor stores nothing below its promise.
    PromisesHold,
    /// The proposer's own database is no exception.
    OwnVoteObeysPromise,
    /// Granted units count against the ceiling.
    GrantWithinCeiling,
    /// A take-over counts when a majority has stored it: promises alone are not enough.
    CountWhenChosen,
    /// Only what was chosen is learned; what one acceptor stored is not.
    LearnWhatWasChosen,
    /// A take-over counts the whole ceiling as sold, whatever a copy of the row says.
    CeilingCountsAsSold,
    /// So it does when the owner's database is lost.
    DeadCeilingCountsAsSold,
    /// Who has promises goes on from the newest value that any of them had stored.
    AdoptTheNewest,
    /// Its credits included.
    CreditsAreAdopted,
    /// A raise counts what others took over.
    CreditsCountOnRaise,
    /// A proposal is stored before it is sent, and after a crash a new ballot comes first: no ballot and
    /// sequence ever name two values.
    StoreBeforeSending,
    /// An acceptor that lost its database says nothing before it has heard all others.
    SilentUntilSeeded,
    /// And hears them behind a new promise, so that no vote it has forgotten is counted with a later one.
    SeedingPrepares,
    /// A region whose database was set back notices it, and comes back as another incarnation.
    NoticeAmnesia,
    /// A reservation is released once.
    ReleaseOnce,
}

impl Rule {
    /// All of them.
    pub(crate) const ALL: [Self; 17] = [
        Self::MajorityDecides,
        Self::ActivateWhenChosen,
        Self::PromisesHold,
        Self::OwnVoteObeysPromise,
        Self::GrantWithinCeiling,
        Self::CountWhenChosen,
        Self::LearnWhatWasChosen,
        Self::CeilingCountsAsSold,
        Self::DeadCeilingCountsAsSold,
        Self::AdoptTheNewest,
        Self::CreditsAreAdopted,
        Self::CreditsCountOnRaise,
        Self::StoreBeforeSending,
        Self::SilentUntilSeeded,
        Self::SeedingPrepares,
        Self::NoticeAmnesia,
        Self::ReleaseOnce,
    ];
}
