"""Phrases that people ask, greet and hedge in, whose words are no names there: the "mind" of "would you mind"."""

from __future__ import annotations

_PHRASES = """
would you mind; do you mind; mind telling; mind sharing; mind checking; mind saying; mind if; to hand;
if you don't mind; if you do not mind; never mind; keep in mind; bear in mind; comes to
mind; come to mind; springs to mind; to my mind; on my mind; slipped my mind; make up my mind; changed my mind;
fill in the blank; fill in the blanks; fill in the gap; fill in the gaps; fill the gap; draw a blank; drew a blank;
drawing a blank; point blank;
i have a question; i've a question; got a question; have a question; have one question; have another question; quick
question; simple question; silly question; stupid question; dumb question; next question; my question is; question for
you; out of the question; good question; quiz question; trivia question; exam question; homework question;
just in case; in any case; in that case; in this case; in case of; in either case; as the case may be;
by the way; in a way; in no way; in any way; by no means; by all means; by any means; either way; along the way; one
way or another; if by any chance; by chance; by any chance; by heart; by far; by now; by and large;
in a nutshell; in short; in brief; in general; in particular; in fact; in other words; in a word; in a few words; in
one word; in so many words; in plain words; in plain english; in simple terms; in simple words; in terms of; in
detail; in full; in the end; in the first place; in the meantime; in a hurry; in advance; in return; in turn; in order
to; in order of; in front of; in spite of; in addition; in common; in the know; in the mood; in need of; in charge of;
in favor of; in favour of; in light of; in view of; in touch; in vain; in due course; in the long run; in my opinion;
for example; for instance; for sure; for certain; for now; for once; for good; for free; for fun; for the sake of; for
the time being; for what it's worth; for the record; for real; for a moment; for a second; for a minute; for a change;
for short; for lack of; for want of; for crying out loud; for heaven's sake; for god's sake;
at the moment; at last; at least; at most; at first; at once; at all; at a glance; at the end of the day; at the very
least; at present; at any rate; at length; at a loss; at stake; at ease; at random;
of course; of late; on the other hand; on the one hand; on purpose; on time; on average; on the spot; on second
thought; on second thoughts; on the whole; on top of; on behalf of; on account of; on that note; on a side note; on my
own; on the tip of my tongue; on the fly; on the go; off the record; off the top of my head; off the top of your head;
top of my head; out of curiosity; out of interest; out of the blue; out of date; up to date;
as well; as well as; as far as; as soon as; as long as; as a matter of fact; as a rule; as a whole; as usual; as a
result; as a favor; as a favour; as a last resort; as a reminder; as of now; as a starting point; as follows;
a lot of; lots of; a little bit; a couple of; a number of; a great deal; a good deal; kind of; kinds of; sort of; all
sorts of; a matter of; no matter; a handful of; plenty of; a series of; a set of;
wait a minute; wait a moment; wait a second; just a minute; just a moment; just a second; one moment please; hold on a
second; hang on a second; give me a second; give me a minute; give me a moment; have a minute; have a moment; have a
second; got a minute; got a moment; got a second; for a while; once in a while; every now and then; from now on; once
upon a time; from time to time; once more; first of all; last but not least; once and for all; these days; the other
day; right now; right away; all right; that's right; am i right; if i'm right; step by step; one by one; word for
word; side by side; so far; thus far; to this day; to date; all along; after all; above all; all in all;
good morning; good afternoon; good evening; good night; good day; good luck; good to know; good grief; good heavens;
have a nice day; have a good day; have a great day; dear sir; dear madam; dear sir or madam; dear all; dear friend;
dear friends; dear team; ladies and gentlemen; hi there; hello there; hey there; hi all; hi everyone; hello everyone;
hi team; hi folks; hey guys; hi guys; excuse me; pardon me; forgive me; bear with me; help me out; give me a hand;
lend me a hand; need a hand; do me a favor; do me a favour; be so kind; be kind enough; kind regards; best regards;
warm regards; best wishes; yours truly; yours sincerely; all the best; many thanks; thanks a lot; thanks a million;
thanks a bunch; thanks in advance; thank you in advance; thank goodness; thank god; much obliged;
no problem; no worries; no rush; no hurry; no idea; no doubt; no wonder; no kidding; no clue; not a clue; have a clue;
haven't a clue; without a doubt; sorry to bother you; sorry to trouble you; sorry for the trouble; sorry about that;
if it's no trouble; if it's no bother; don't bother; don't worry; not to worry; what a shame; what a pity; take your
time; take a look; have a look; having a look; taking a look; take a guess; have a guess; take care; take part; take
place; takes place; took place; taken place; take for granted; take into account; take note; take a break; give it a
try; give it a go; give it a shot; give me a hint; give me a clue; give a hint; make sure; make sense; makes sense;
made sense; make a note; make a guess; make a difference; make do; play a part; play a role; pay attention; keep track
of; lose track of; lost track of; lose count; lost count; keep forgetting; keep mixing; catch up; look up; looking up;
looked up; looking for; look for; figure out; find out; found out; point out; sum up; spell out; work out; look
forward to; get in touch; get to know; get the hang of; get the gist of; the gist of; ring a bell; rings a bell; let's
see; let us see; let me see; let me know; let me think; let me guess; long story short; to be honest; to be fair; to
be frank; to be sure; to be exact; to be precise; to tell the truth; truth be told; to put it simply; to put it
mildly; if memory serves; from scratch; rule of thumb; believe it or not; like it or not;
just the answer; short answer; quick answer; straight answer; one word answer; in a single word; in a single sentence;
what on earth; who on earth; where on earth; when on earth; why on earth; how on earth; what in the world; who in the
world; where in the world; why in the world; how in the world; what the heck; what the hell; what the deuce;
a friend asks; a friend asked; a friend of mine; my friend wants to know; a customer asks; a customer asked; a client
asks; a reader asks; a colleague asks; my boss asks; my boss wants to know; somebody asks; somebody asked; someone
asked;
"""
STOCK_PHRASES = tuple(" ".join(one.split()) for one in _PHRASES.split(";") if one.strip())
