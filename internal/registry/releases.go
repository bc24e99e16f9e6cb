package registry

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
)

const (
	// logFormat tells which commands a server knows. It is raised by a release that adds some: a server stops at an entry that
	// it does not know, so that nobody may write one while a server of an older release runs.
	logFormat = 2

	// originFormat is the format that brought who asks for a command, and tokens.
	originFormat = 2
)

// releasesFor is for how long it holds that the servers were new enough. An upgrade goes on while servers are looked at; a
// server that goes back to an older release is not provided for.
const releasesFor = 5 * time.Second

// formatOf is the log format that a server needs for a command. What a backup holds is of the release that wrote it, which
// may have been the newest.
func formatOf(c fsm.Command) int {
	switch c := c.(type) {
	case *fsm.CheckState, *fsm.DropBackup, *fsm.JoinServer, *fsm.RemoveServer, *fsm.SettleServer:
		return 1
	case *fsm.StageBackup, *fsm.Restore:
		return logFormat
	case *fsm.CreateToken, *fsm.RevokeToken:
		return originFormat
	case *fsm.InitCluster:
		return int(c.GetLogFormat())
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
// what to do when it is started. What the log says of all servers is not asked again.
func (r *Registry) understood(ctx context.Context, c fsm.Command) error {
	if r.latched(formatOf(c)) || r.releases.recent(formatOf(c)) {
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

// latched reports whether the log says that every server knows a format. Format 1 it never says: what the first check in
// it shows, it shows by itself.
func (r *Registry) latched(format int) bool {
	return format == 0 || r.fsm.State().LogFormat() >= uint64(format)
}

// readable reports whether a server that knows a format knows all that may be in the log.
func (r *Registry) readable(format int) bool {
	return r.fsm.State().LogFormat() <= uint64(max(format, 0))
}

// leaderUnderstands refuses a command that the leader would not know: one of an older release says no more than that it
// does not. Whoever leads when the command arrives looks again.
func (r *Registry) leaderUnderstands(ctx context.Context, c fsm.Command) error {
	return r.leaderKnows(ctx, formatOf(c), c)
}

func (r *Registry) leaderKnows(ctx context.Context, format int, c fsm.Command) error {
	l, ok := r.leaderNow()
	if r.latched(format) || !ok || l.self {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	m, err := r.askMember(ctx, Peer{ID: l.id, Addr: l.addr}, false)
	if err != nil || m.LogFormat >= format {
		return nil //nolint:nilerr // one that does not answer will not answer the command either, and that error says more
	}
	return tooOld(m, c)
}

func tooOld(m api.Member, c fsm.Command) *api.Error {
	return &api.Error{Code: api.WrongPhase, Detail: fmt.Sprintf("server %q runs release %q, which does not know this command (%s) and would stop at it; upgrade it first",
		m.ID, m.Version, strings.TrimPrefix(fmt.Sprintf("%T", c), "*pb."))}
}

// identified reports whether the origin is of somebody who showed who he is.
func identified(o *fsm.Origin) bool { return o != nil && o.GetRole() != access.Anonymous.String() }

// sendable is a command as the leader takes it, of whichever release that is. Until the log says that all servers know
// origins that of somebody unknown is left out, as it was before there were any.
func (r *Registry) sendable(ctx context.Context, e fsm.Envelope) (fsm.Envelope, error) {
	format := formatOf(e.Command)
	if identified(e.Origin) {
		format = max(format, originFormat)
	} else if !r.latched(originFormat) {
		e.Origin = nil
	}
	return e, r.leaderKnows(ctx, format, e.Command)
}

// fit is the leader's: it makes of a command that came in what every server knows, and never waits for another one. Once the
// log says that all know origins, a command without one is of somebody unknown: a front end that forgets it can do nothing
// then that asks for more.
func (r *Registry) fit(ctx context.Context, e fsm.Envelope, encoded []byte) ([]byte, error) {
	s := r.fsm.State()
	latched := r.latched(originFormat) || !s.AdmitsAnonymous()
	if needs := identified(e.Origin) || formatOf(e.Command) >= originFormat && !restores(e.Command); !latched && needs {
		if err := r.raiseFormat(ctx); err != nil {
			return nil, err
		}
		latched = true
	}
	switch {
	case latched && e.Origin == nil:
		e.Origin = fsm.OriginOf(access.Who{Role: access.Anonymous}, "", "")
	case !latched && e.Origin != nil:
		e.Origin = nil
	default:
		return encoded, nil
	}
	return e.Encode()
}

// restores reports whether the command is one of a restore, which goes by the servers that answer, see understood.
func restores(c fsm.Command) bool {
	switch c.(type) {
	case *fsm.StageBackup, *fsm.Restore:
		return true
	}
	return false
}

// raiseFormat puts on record that every server knows the newest format, if all have said so since this one leads. It asks
// nobody: followFormat does.
func (r *Registry) raiseFormat(ctx context.Context) error {
	if id, format, lacks := r.releases.lacking(r.servers(), logFormat); lacks {
		why := fmt.Sprintf("runs a release that does not know who asks (log format %d, %d is needed) and would stop at it; upgrade it first, or if it is gone for good: scope-registry cluster remove %s", format, logFormat, id)
		if format < 0 {
			why = fmt.Sprintf("has not said yet that its release knows who asks (log format %d); start it, or if it is gone for good: scope-registry cluster remove %s; then try again", logFormat, id)
		}
		return &api.Error{Code: api.WrongPhase, Detail: fmt.Sprintf("server %q %s", id, why)}
	}
	err := r.proposeOne(ctx, r.formatCommand())
	var refusal *refusedError
	if errors.As(err, &refusal) && r.latched(logFormat) {
		return nil // somebody was faster
	}
	return err
}

// formatCommand says that every server knows the newest format, and names the cluster where it has no name yet.
func (r *Registry) formatCommand() *fsm.InitCluster {
	c := &fsm.InitCluster{LogFormat: logFormat}
	if r.fsm.State().Cluster().ID == "" {
		c.Id = r.clusterID
	}
	return c
}

// initCommand names a new cluster, and says of its servers what they have said.
func (r *Registry) initCommand(ctx context.Context) *fsm.InitCluster {
	if c := r.formatCommand(); r.allUnderstand(ctx, c) {
		return c
	}
	return &fsm.InitCluster{Id: r.clusterID}
}

// followFormat is the leader's: it asks until all servers know the newest format, those that are down now included, and
// puts it on record.
func (r *Registry) followFormat(ctx context.Context) {
	for ctx.Err() == nil && !r.latched(logFormat) {
		if s := r.fsm.State(); s.Cluster().ID == "" { // the first entry may say it
			_ = r.fsm.WaitIndex(ctx, s.Index()+1) // either way it is time to look again
			continue
		}
		if !r.allUnderstand(ctx, r.formatCommand()) {
			wait(ctx, othersEvery)
			continue
		}
		if err := r.raiseFormat(ctx); err != nil && ctx.Err() == nil {
			r.log.Warn("that all servers know the newest log format was not written", "format", logFormat, "error", err)
			wait(ctx, othersEvery)
		}
	}
}

// allUnderstand is for what the leader writes by itself, which can wait: every server has said so, also one that is down now.
func (r *Registry) allUnderstand(ctx context.Context, c fsm.Command) bool {
	understand := func() bool {
		_, _, lacks := r.releases.lacking(r.servers(), formatOf(c))
		return !lacks
	}
	if !understand() {
		r.askReleases(ctx)
	}
	return understand()
}

func (r *Registry) askReleases(ctx context.Context) []api.Member {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	members := r.askMembers(ctx, r.servers(), false)
	for _, m := range members {
		if m.Error == "" {
			r.releases.note(m.ID, m.LogFormat)
		}
	}
	return members
}

// note keeps what a server has said of itself.
func (l *knownReleases) note(id string, format int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen == nil {
		l.seen = map[string]int{}
	}
	l.seen[id] = format
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

// lacking is the first of the servers that has not said that it knows a format, with the one it said, -1 if it said none.
func (l *knownReleases) lacking(servers []raft.Server, format int) (id string, said int, lacks bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range servers {
		said, has := l.seen[string(s.ID)]
		if !has {
			said = -1
		}
		if said < format {
			return string(s.ID), said, true
		}
	}
	return "", 0, false
}
