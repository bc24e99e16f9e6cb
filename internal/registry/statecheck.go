package registry

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
)

const (
	// defaultCheckEvery is after how many log entries the servers compare their states.
	defaultCheckEvery = 1000

	// checkRest is how many times longer than it took to hash the state the next check waits: with a large table and many
	// writes they would else do nothing but hash.
	checkRest = 99

	// agreeTimeout bounds the wait for the hashes of a majority. Then the state is marked anew, and nothing is said of it.
	agreeTimeout = time.Minute

	// agreeEvery is the pause between two rounds of asking for them.
	agreeEvery = time.Second

	// maxUnchecked bounds the states that wait to be hashed: each keeps an old version of the tables alive. While entries are
	// replayed at a start they come faster than that; those beyond are not checked.
	maxUnchecked = 4

	// checksKept is how many hashes are remembered: that of the last mark, and of those whose check may still come.
	checksKept = 8
)

// checker hashes the states that a CheckState marks, beside the goroutine that applies, and compares them with what the
// log says of them.
type checker struct {
	differs func(of uint64, own, majority string)
	wake    chan struct{}

	mu      sync.Mutex // guards the rest
	waiting []fsm.State
	hashes  []stateHash // newest last
	took    time.Duration
	agreed  uint64 // log index of the newest state that was compared and is that of the majority
}

// stateHash is the hash of this server's own state at a log index.
type stateHash struct {
	index uint64
	hash  string
}

func newChecker(differs func(of uint64, own, majority string)) *checker {
	return &checker{differs: differs, wake: make(chan struct{}, 1)}
}

// marked takes a state with a check in its last entry. It is called by the goroutine that applies.
func (c *checker) marked(s fsm.State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) < maxUnchecked {
		c.waiting = append(c.waiting, s)
		signal(c.wake)
	}
}

// run hashes until ctx ends.
func (c *checker) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
		for s, ok := c.next(); ok && ctx.Err() == nil; s, ok = c.next() {
			c.check(s)
		}
	}
}

func (c *checker) next() (s fsm.State, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) == 0 {
		return s, false
	}
	s = c.waiting[0]
	c.waiting[0] = fsm.State{} // the table that it holds may be large
	c.waiting = c.waiting[1:]
	return s, true
}

// check first compares, as what was marked before was hashed before.
func (c *checker) check(s fsm.State) {
	said := s.Checked()
	if own := c.hashAt(said.Of); own != "" && said.Of > 0 {
		if own != said.Hash {
			c.differs(said.Of, own, said.Hash)
			return
		}
		c.mu.Lock()
		c.agreed = said.Of
		c.mu.Unlock()
	}
	began := time.Now()
	hash := s.Hash()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.took = time.Since(began)
	if c.hashes = append(c.hashes, stateHash{s.Index(), hash}); len(c.hashes) > checksKept {
		c.hashes = c.hashes[1:]
	}
}

// hashAt is the hash of this server's state at a mark, "" if it is not known, or not yet.
func (c *checker) hashAt(index uint64) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.hashes {
		if h.index == index {
			return h.hash
		}
	}
	return ""
}

// newest is the last hash there is.
func (c *checker) newest() (h stateHash) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.hashes) > 0 {
		h = c.hashes[len(c.hashes)-1]
	}
	return h
}

func (c *checker) rest() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return checkRest * c.took
}

func (c *checker) lastAgreed() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.agreed
}

// checkStates is the leader's: it marks a state after so many entries, and says what a majority had at the mark before. A
// leader that took its own hash for the truth would stop all others if it is the one that differs.
func (r *Registry) checkStates(ctx context.Context) {
	for ctx.Err() == nil {
		s := r.fsm.State()
		last := s.Checked().Index
		if s.Index() < last+r.cfg.checkEvery {
			_ = r.fsm.WaitIndex(ctx, last+r.cfg.checkEvery) // either way it is time to look again
			continue
		}
		c := &fsm.CheckState{}
		if last == 0 && !r.allUnderstand(ctx, c) { // after the first, who does not know them stops there already
			wait(ctx, othersEvery)
			continue
		}
		if hash := r.agree(ctx, last); hash != "" {
			c.Of, c.Hash = last, hash
		}
		if err := r.proposeOne(ctx, c); err != nil && ctx.Err() == nil {
			r.log.Warn("a check of the state was not written", "error", err)
			wait(ctx, agreeEvery)
			continue
		}
		wait(ctx, r.checks.rest())
	}
}

// agree waits until a majority of the servers has the same hash at a mark, and returns it; "" where that does not happen.
func (r *Registry) agree(ctx context.Context, mark uint64) string {
	if mark == 0 {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, agreeTimeout)
	defer cancel()
	for {
		hashes, voters := r.hashesAt(ctx, mark)
		votes := map[string]int{}
		for _, h := range hashes {
			if votes[h]++; votes[h] > voters/2 {
				return h
			}
		}
		wait(ctx, agreeEvery)
		if ctx.Err() != nil {
			if len(votes) > 1 {
				r.log.Error("the states of the servers differ, and no majority of them agrees; bring the other servers up", "index", mark, "hashes", fmt.Sprint(hashes))
			}
			return ""
		}
	}
}

// hashesAt asks all that vote for the hash that they have at a mark, by id, and says how many they are.
func (r *Registry) hashesAt(ctx context.Context, mark uint64) (hashes map[string]string, voters int) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	hashes = map[string]string{}
	all := r.askVoters(ctx)
	for _, m := range all {
		hash := ""
		if m.ID == r.cfg.ID {
			hash = r.checks.hashAt(mark)
		} else if m.CheckIndex == mark {
			hash = m.CheckHash
		}
		if hash != "" {
			hashes[m.ID] = hash
		}
	}
	return hashes, len(all)
}

// condemn stops this server for good: its state is not that of the majority. A snapshot may hold it already, so that a
// start would serve it again, up to the next check.
func (r *Registry) condemn(of uint64, own, majority string) {
	err := error(&CorruptError{What: "state of server", File: r.cfg.ID, Record: fmt.Sprintf("log index %d", of), Index: of,
		Detail: fmt.Sprintf("its hash is %s, and a majority of the servers has %s", own, majority), Do: wayOut})
	if r.dir != nil {
		err = r.dir.condemn(err)
	}
	r.alarm.raise(err)
}
