package registry

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

// logFormat tells which commands a server knows. It is raised by a release that adds some: a server stops at an entry that
// it does not know, so that nobody may write one while a server of an older release runs.
const logFormat = 1

// releasesFor is for how long it holds that the servers were new enough. An upgrade goes on while servers are looked at; a
// server that goes back to an older release is not provided for.
const releasesFor = 5 * time.Second

// formatOf is the log format that a server needs for a command.
func formatOf(c fsm.Command) int {
	switch c.(type) {
	case *fsm.CheckState, *fsm.StageBackup, *fsm.Restore, *fsm.DropBackup, *fsm.JoinServer, *fsm.RemoveServer, *fsm.SettleServer:
		return 1
	}
	return 0
}

// knownReleases is what the leader knows of the other servers' releases.
type knownReleases struct {
	mu   sync.Mutex // guards the rest
	seen map[string]int
	good map[int]time.Time // by log format: when all that answered knew it
}

// understood refuses a command while a server runs that would stop at it. One that is down and of an older release says
// what to do when it is started.
func (r *Registry) understood(ctx context.Context, c fsm.Command) error {
	if formatOf(c) == 0 || r.releases.recent(formatOf(c)) {
		return nil
	}
	for _, m := range r.askReleases(ctx) {
		if m.Error == "" && m.LogFormat < formatOf(c) {
			return tooOld(m, c)
		}
	}
	if err := ctx.Err(); err != nil {
		return &definite{err} // whoever did not answer had no time to
	}
	r.releases.allKnow(formatOf(c))
	return nil
}

// leaderUnderstands refuses a command that the leader would not know: one of an older release says no more than that it
// does not. Whoever leads when the command arrives looks again.
func (r *Registry) leaderUnderstands(ctx context.Context, c fsm.Command) error {
	l, ok := r.leaderNow()
	if formatOf(c) == 0 || !ok || l.self {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	m, err := r.askMember(ctx, Peer{ID: l.id, Addr: l.addr}, false)
	if err != nil || m.LogFormat >= formatOf(c) {
		return nil //nolint:nilerr // one that does not answer will not answer the command either, and that error says more
	}
	return tooOld(m, c)
}

func tooOld(m api.Member, c fsm.Command) *api.Error {
	return &api.Error{Code: api.WrongPhase, Detail: fmt.Sprintf("server %q runs release %q, which does not know this command (%s) and would stop at it; upgrade it first",
		m.ID, m.Version, strings.TrimPrefix(fmt.Sprintf("%T", c), "*pb."))}
}

// allUnderstand is for what the leader writes by itself, which can wait: every server has said so, also one that is down now.
func (r *Registry) allUnderstand(ctx context.Context, c fsm.Command) bool {
	if !r.releases.all(r, c) {
		r.askReleases(ctx)
	}
	return r.releases.all(r, c)
}

func (r *Registry) askReleases(ctx context.Context) []api.Member {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	members := r.askMembers(ctx, r.servers(), false)
	r.releases.mu.Lock()
	defer r.releases.mu.Unlock()
	for _, m := range members {
		if m.Error == "" {
			if r.releases.seen == nil {
				r.releases.seen = map[string]int{}
			}
			r.releases.seen[m.ID] = m.LogFormat
		}
	}
	return members
}

// allKnow notes that all that answered just now know a log format.
func (l *knownReleases) allKnow(format int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.good == nil {
		l.good = map[int]time.Time{}
	}
	l.good[format] = time.Now()
}

func (l *knownReleases) recent(format int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Since(l.good[format]) < releasesFor
}

func (l *knownReleases) all(r *Registry, c fsm.Command) bool {
	servers := r.servers()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range servers {
		if l.seen[string(s.ID)] < formatOf(c) {
			return false
		}
	}
	return true
}
