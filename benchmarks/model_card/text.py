"""The parts of the card that are the same for every student: use, misuse, law. No figures."""

from __future__ import annotations

INTENDED = """\
- Count how a service's callers are composed, in the aggregate, where people know and agreed.
- Choose a default that anyone can change: a voice, a pace, a line of help.
- Measure whether another speech system works alike for different voices.
- Study streaming speech classification.

Read the posterior, and let “undecided” be an answer: the server leaves a task undecided until there
is enough speech and its calibrated confidence reaches a threshold. A person must be able to correct
what was predicted, and to opt out."""

NOT_FOR = """\
It predicts how a voice is *recorded or perceived*: as female or male, and of which age band. That
is not who somebody is. It is **not identity, not gender identity, not sex and not an age**. Two
labels cannot describe everyone; those whom they do not describe, it misdescribes.

Do not use it for

- **pricing**, or any offer that depends on the voice;
- **eligibility**: credit, insurance, benefits, housing, health care;
- **employment**: hiring, rating or watching agents and applicants;
- **age verification**, or access of any kind;
- **identifying** a person, or recognising them again;
- **covert profiling**: of people who do not know, or did not agree;
- any decision about one person that nobody checks."""

LAW = """\
This is not legal advice.

- **EU AI Act.** Recital 16 names sex and age among biometric categories. Annex III 1(b)
  (categorisation by sensitive or protected attributes) may make a system built on this high-risk.
  Article 50(3) asks deployers to inform the people exposed to it. Article 5(1)(f) bans inferring
  emotions at work; this model has no such output.
- **GDPR.** A voice, and what is inferred from it, are personal data. Needed are at least a legal
  basis, notice, usually an impact assessment, and Article 22 where decisions are automated.
  Speaker-like embeddings can act as voiceprints: the server stores none.
- **Illinois BIPA.** A claim over extracting pitch, age and gender from callers has survived
  dismissal (*Carpenter v. McDonald's*, N.D. Ill. 2022). Get a written release first.
- **Korea.** PIPA (sensitive information, automated decisions) and the AI Basic Act apply to callers
  there."""

PROTECTION = """\
The server keeps a call in memory and writes no audio, no embedding and no state to disk or log."""

UNTESTED = (
    "Synthetic voices, voices changed by illness, singing, shouting, whispering and several people "
    "on one channel are untested.",
    "Labels are what speakers or corpora state. Some are wrong, in training and in the test; no "
    "model gets those right.",
    "An interval covers other speakers *like these*. It does not cover other corpora, lines, "
    "countries or years.",
)

ATTRIBUTION = {
    "speechocean762": "Zhang et al. 2021, arXiv 2104.01378",
    "coswara-counting": "Sharma et al. 2020, arXiv 2005.10548",
}
"""References of corpora, for those that a student was trained on."""
