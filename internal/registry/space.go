package registry

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

const (
	// minFree is how much space has to be free on the data directory's disk for commands to be taken: bolt grows its file by
	// 16 MiB, and what goes on without commands (votes, confirms, the leader's own words) must have room for long.
	minFree = 64 << 20

	// freeSnapshots times the next snapshot must be free beyond that: it is written before an old one goes.
	freeSnapshots = 2

	// scopeInSnapshot is about what a scope takes in a snapshot, in bytes, where the next one may be much larger than the
	// newest: a few entries of the log can declare a million scopes.
	scopeInSnapshot = 128

	// freeAgain is the part by which the limit has to be passed before commands are taken again, or each snapshot that is
	// removed would open the door for a moment.
	freeAgain = 4

	// spaceEvery is how often the disk is asked. At 100 MB/s the space of minFree lasts longer than that only just, and no
	// log grows so fast.
	spaceEvery = time.Second / 2

	// othersEvery is how often the leader asks the other servers.
	othersEvery = 5 * time.Second
)

// spaceOf tells how much space is left.
type spaceOf interface {
	// Free is how many bytes this process may still write below a path.
	Free(path string) (free uint64, err error)
}

// space is what is known of the disk.
type space struct {
	mu        sync.Mutex // guards the rest
	free      uint64
	limit     uint64
	low       bool
	unknown   error // why it is not known
	othersLow int   // servers besides this one that said so, of voters, asked by the leader
	voters    int
}

// measured takes what the disk says, and reports whether that is news.
func (s *space) measured(free, limit uint64, err error) (changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		changed = s.unknown == nil
		s.unknown = err // it stays low, if it was
		return changed
	}
	was := s.low
	s.free, s.limit, s.unknown = free, limit, nil
	switch {
	case free < limit:
		s.low = true
	case free >= limit+limit/freeAgain:
		s.low = false
	}
	return s.low != was
}

// watchSpace measures until this server ends.
func (r *Registry) watchSpace() {
	t := time.NewTicker(spaceEvery)
	defer t.Stop()
	for {
		r.measureSpace()
		select {
		case <-r.ctx.Done():
			return
		case <-t.C:
		}
	}
}

func (r *Registry) measureSpace() {
	limit := uint64(minFree)
	if s, ok := r.snaps.(*snapshots); ok { // those in memory take no space
		now := r.fsm.State()
		_, staged := now.Staged()
		limit += freeSnapshots*max(s.newest.Load(), scopeInSnapshot*uint64(now.Scopes().Len())) + staged
	}
	free, err := r.cfg.space.Free(r.cfg.DataDir)
	if !r.space.measured(free, limit, err) {
		return
	}
	switch s := r.Storage(); {
	case err != nil:
		r.log.Error("the free space is not known; commands are taken on", "dir", r.cfg.DataDir, "error", err)
	case s.Low:
		r.log.Error("the disk is nearly full: commands are refused with LIMIT until there is space", "dir", r.cfg.DataDir, "free", s.Free, "limit", s.Limit)
	default:
		r.log.Warn("there is space again: commands are taken", "dir", r.cfg.DataDir, "free", s.Free, "limit", s.Limit)
	}
}

// askSpace is the leader's: servers whose disks are full stop, and a leader must not write until there is no majority left.
func (r *Registry) askSpace(ctx context.Context) {
	for ctx.Err() == nil {
		low, voters := r.askOthersLow(ctx)
		r.space.mu.Lock()
		r.space.othersLow, r.space.voters = low, voters
		r.space.mu.Unlock()
		wait(ctx, othersEvery)
	}
}

func (r *Registry) askOthersLow(ctx context.Context) (low, voters int) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	all := r.askVoters(ctx)
	for _, m := range all {
		if m.ID != r.cfg.ID && m.DiskLow {
			low++
		}
	}
	return low, len(all)
}

// room refuses a command for which there is no space, on the leader. What ends something that is under way is taken: it is
// little, bounded by what runs, and to refuse it would leave scopes closed, or a backup that does not get any further in each
// snapshot.
func (r *Registry) room(c fsm.Command) error {
	switch c.(type) {
	case *fsm.Shipped, *fsm.Ready, *fsm.Abort, *fsm.Cleaned, *fsm.CloseSession, *fsm.DropBackup:
		return nil
	}
	s := &r.space
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.low:
		return &api.Error{Code: api.Limit, Detail: fmt.Sprintf("the disk of server %q, the leader, has %d MiB free, and below %d MiB no command is taken; make space in %s",
			r.cfg.ID, s.free>>20, s.limit>>20, r.cfg.DataDir)}
	case s.othersLow > 0 && s.voters-s.othersLow <= s.voters/2:
		return &api.Error{Code: api.Limit, Detail: fmt.Sprintf("the disks of %d of %d servers are nearly full, and without them there is no majority; make space there (scope-registry cluster status)",
			s.othersLow, s.voters)}
	}
	return nil
}

// Storage is what this server knows of its disk and of the check of its state.
func (r *Registry) Storage() api.Storage {
	_, stalled := r.dog.stalled()
	r.space.mu.Lock()
	defer r.space.mu.Unlock()
	return api.Storage{Free: r.space.free, Limit: r.space.limit, Low: r.space.low, Stalled: stalled, Checked: r.checks.lastAgreed()}
}
