package agent

import (
	"fmt"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

// Watched is one item of the watch stream.
type Watched struct {
	Stream uint64 // of the [Watch] that began it
	Item   api.WatchItem
}

// WatchEnded says that a stream broke, or could not begin.
type WatchEnded struct {
	Stream uint64
	Code   api.Code // of the error, if the server gave one
}

// Opened says that a session was opened for this process.
type Opened struct {
	Session     string
	Index       uint64      // of the opening
	Incarnation Incarnation // that was asked for
	// Renew and Lease are the times that the cluster counts by; zero keeps those
	// of the [Config].
	Renew, Lease time.Duration
}

// OpenFailed says that a session was definitely not opened.
type OpenFailed struct{ Code api.Code }

// Renewed says that the leader granted a renewal.
type Renewed struct {
	Session string
	SentAt  time.Duration // the node's clock just before the request was sent
	Lease   time.Duration // that was granted, from SentAt
	Index   uint64        // of the leader's state when it granted it
}

// RenewFailed says that a renewal was refused, or not answered.
type RenewFailed struct {
	Session string
	Code    api.Code
	Index   uint64 // of a STALE: what the view has to reach; 0 if that was not said
}

// Shutdown asks the node to stop: it admits nothing more, drains, and closes its
// session.
type Shutdown struct{}

// Closed says that the session was closed, or does not exist any more.
type Closed struct{ Session string }

func (Watched) event()     {}
func (WatchEnded) event()  {}
func (Opened) event()      {}
func (OpenFailed) event()  {}
func (Renewed) event()     {}
func (RenewFailed) event() {}
func (Shutdown) event()    {}
func (Closed) event()      {}

// Publish puts rules in force, before anything else is begun.
type Publish struct{ Rules *Rules }

// Watch begins a watch stream; the one before has ended, or is to be ended. It is
// of another server than that, where there is one: the server may be what is wrong.
type Watch struct {
	Stream uint64
	From   uint64 // 0 is a snapshot
}

// OpenSession asks for a session. Whoever carries it out draws session id and
// token, keeps both on disk first, and repeats the same request until it knows the
// outcome.
type OpenSession struct {
	Incarnation Incarnation
	View        uint64
}

// Renew renews the lease. Its answer carries the clock from just before sending.
type Renew struct{ Renewal api.Renewal }

func (Publish) effect()     {}
func (Watch) effect()       {}
func (OpenSession) effect() {}
func (Renew) effect()       {}

// session is the right of this process to speak for its node.
type session struct {
	id          string
	opened      uint64
	incarnation Incarnation
	seen        bool          // the view has reached opened, and shows it
	opening     bool          // in this incarnation
	tryAt       time.Duration // when to open the next one
}

// lease is what the session's renewals have brought.
type lease struct {
	renewAt time.Duration
	until   time.Duration
	floor   uint64 // the view must have reached it: the lease had been lost
}

// valid is when the lease ends for a node whose view is at index; 0 is no lease.
func (l lease) valid(index uint64) time.Duration {
	if index < l.floor {
		return 0
	}
	return l.until
}

func (t *step) watched(e Watched) {
	if e.Stream != t.stream || !t.on {
		return // of a stream that was given up
	}
	item := e.Item
	its := Incarnation{item.Incarnation, item.Tag}
	t.meet(its)
	switch item.Type {
	case "snapshot":
		t.takeSnapshot(item)
	case "change", "heartbeat":
		switch {
		case t.partial != nil, its != t.view.incarnation, t.view.index == 0:
			t.rewatch(true) // the rest of a snapshot, or all of it, is missing
		case item.Index > t.view.index:
			t.takeChanges(item)
		}
	default: // an error, or a reset: the stream ends
		t.rewatch(true)
	}
	if t.on && t.partial == nil && item.Index == t.view.index {
		t.heard = t.now // not of a server that is behind the view
	}
}

// meet is told of another history of the cluster: its indexes say nothing about
// this view. If it is a later one, nothing of the view holds any more, and the node
// stops at once, not only when it has got the view of that one.
func (t *step) meet(other Incarnation) {
	was := t.view.incarnation
	switch {
	case other.Number > was.Number && was.Number > 0:
		t.view, t.replaced = View{incarnation: other}, true
	case other.Number == was.Number && other.Tag != was.Tag && was.Number > 0:
		t.fault = fmt.Sprintf("incarnation %d of the cluster has the tag %q, and this node met it with the tag %q: it was used for two restores, and nothing of this node's view holds in both; "+
			"restore again under a number never used before", was.Number, other.Tag, was.Tag)
	}
}

func (t *step) takeChanges(item api.WatchItem) {
	v, touched, err := t.view.With(item.Index, item.Changes)
	if err != nil {
		t.rewatch(true)
		return
	}
	t.replaced = t.replaced || v.hold != t.view.hold
	t.view, t.touched = v, append(t.touched, touched...)
}

func (t *step) takeSnapshot(item api.WatchItem) {
	var v View
	if t.partial != nil {
		v = *t.partial
	}
	began := t.partial == nil || v.index == item.Index
	v, err := v.Loaded(item.Index, item.Changes)
	switch {
	case err != nil || !began || v.incarnation.Number == 0: // the record of the cluster comes first
		t.rewatch(true)
	case item.More:
		t.partial = &v
		t.goal.since = t.now // this takes its time
		t.meet(v.incarnation)
	default:
		t.partial = nil
		t.install(v)
	}
}

// install puts a whole view in place of the one before. Within an incarnation a
// view never goes back, and never before the opening of the session: what the
// node knew, and acted on, must stay known.
func (t *step) install(v View) {
	was := t.view.incarnation
	switch {
	case v.incarnation.Number < was.Number,
		v.incarnation == was && (v.index < t.view.index || v.index < t.session.opened):
		t.rewatch(true) // of a server that lags; another one, or the same later
		return
	case v.incarnation.Number == was.Number && v.incarnation.Tag != was.Tag:
		t.meet(v.incarnation)
		t.rewatch(true)
		return
	}
	t.view, t.fault, t.replaced, t.stale, t.fresh = v, "", true, false, false
}

// goal is an index that the registry is known to have reached and the view has not.
type goal struct {
	index uint64        // 0 is none
	since time.Duration // that the stream could have brought it
}

// overdue is when the stream is given up that has not brought it: half a lease,
// so that another one can before the leader refuses to renew, after a whole lease.
func (g goal) overdue(times api.Leases) time.Duration { return g.since + times.Lease/2 }

// mustReach notes an index that the leader was at. It stays until the view has
// reached that very one: a view that is always a little behind does follow.
func (t *step) mustReach(index uint64) {
	if t.goal.index == 0 {
		t.goal = goal{index, t.now}
	}
}

// follow gives up a stream that stands still, though it sends heartbeats: its
// server may be cut off from the others. Nobody else tells; the node would admit
// nothing, renew, and keep its fallbacks from taking over.
func (t *step) follow() {
	switch {
	case t.goal.index <= t.view.index:
		t.goal = goal{}
	case t.on && t.now >= t.goal.overdue(t.cfg.Times):
		t.rewatch(false)
	}
}

func (t *step) watchEnded(e WatchEnded) {
	if e.Stream == t.stream && t.on {
		t.rewatch(e.Code == api.Compacted || e.Code == api.Slow)
	}
}

// rewatch begins another stream in a while; from a snapshot, or where the view is.
func (t *step) rewatch(fresh bool) {
	t.partial = nil
	t.fresh = t.fresh || fresh
	if t.on {
		t.on, t.watchAt = false, t.now+again
	}
}

func (t *step) watch() {
	if t.on || t.now < t.watchAt {
		return
	}
	t.stream++
	from := t.view.index
	if t.fresh {
		from = 0
	}
	t.on = true // fresh until the snapshot is there: this stream may end before
	t.goal.since = t.now
	t.do(Watch{t.stream, from})
}

// checkSession looks whether the view shows this process's session and no other.
func (t *step) checkSession() {
	s := &t.session
	if s.id == "" {
		return
	}
	me, _ := t.view.Peer(t.cfg.Node)
	switch {
	case t.view.incarnation != s.incarnation:
		t.lose()
	case t.view.index < s.opened:
		s.seen = false
	// By the index too: an earlier try of the same request may have come late and
	// opened it once more, after it had ended.
	case me.Session == s.id && me.Opened == s.opened:
		s.seen = true
	default:
		t.lose()
	}
}

// lose ends the session: it has expired, or another process has taken it over.
func (t *step) lose() {
	t.lost = t.session.id
	t.session = session{tryAt: t.now}
	t.lease, t.goal = lease{}, goal{}
	if t.closing.asked {
		t.closing.done = true
	}
}

// open asks for a session once there is a view.
func (t *step) open() {
	s := &t.session
	if s.id != "" || s.opening || t.closing.asked || t.fault != "" || t.stale || t.view.index == 0 || t.now < s.tryAt {
		return
	}
	s.opening, s.incarnation, s.tryAt = true, t.view.incarnation, 0
	t.do(OpenSession{t.view.incarnation, t.view.index})
}

func (t *step) opened(e Opened) {
	if !t.session.opening || e.Session == "" || e.Session == t.lost {
		return
	}
	t.session = session{id: e.Session, opened: e.Index, incarnation: e.Incarnation}
	t.lease = lease{renewAt: t.now}
	if e.Renew > 0 && e.Lease > 0 {
		t.cfg.Times.Renew, t.cfg.Times.Lease = e.Renew, e.Lease
	}
	t.mustReach(e.Index)
}

func (t *step) openFailed(e OpenFailed) {
	if !t.session.opening {
		return
	}
	asked := t.session.incarnation
	t.session = session{tryAt: t.now + again}
	if e.Code == api.StaleEpoch && asked == t.view.incarnation {
		// The cluster is in another incarnation than the view. Until there is a view
		// of that one nothing is asked for: the next refusal would end the watch that
		// brings it.
		t.stale = true
		t.rewatch(true)
	}
}

// renew asks for the lease. The view that it tells of is in force already.
func (t *step) renew() {
	if t.session.id == "" || t.closing.said || t.now < t.lease.renewAt {
		return
	}
	t.lease.renewAt = t.now + t.cfg.Times.Renew
	t.do(Renew{api.Renewal{Session: t.session.id, View: t.view.index}})
}

func (t *step) renewed(e Renewed) {
	if e.Session == "" || e.Session != t.session.id {
		return
	}
	if t.lease.until > 0 && t.now >= t.lease.until {
		t.lease.floor = max(t.lease.floor, e.Index)
	}
	// From when it was sent: the leader counts from later, whatever the way back
	// of the answer takes.
	t.lease.until = max(t.lease.until, e.SentAt+e.Lease)
	t.mustReach(e.Index)
}

func (t *step) renewFailed(e RenewFailed) {
	switch {
	case e.Session == "" || e.Session != t.session.id:
	case e.Code == api.SessionExpired:
		t.lose()
	case e.Code == api.Stale:
		t.mustReach(e.Index)
	}
}

// closing is a shutdown.
type closing struct {
	asked    bool
	draining bool
	said     bool // the close was sent: nothing is admitted any more
	done     bool
	sayAt    time.Duration
}

func (t *step) close() {
	c := &t.closing
	switch {
	case !c.asked || c.done:
	case t.session.id == "" && !t.session.opening:
		c.done = true
	case !c.draining:
		c.draining = true
		t.do(AwaitDrain{})
	case c.said && t.session.id != "" && t.now >= c.sayAt:
		c.sayAt = t.now + again
		t.do(Say{Word{Kind: SayClose, Session: t.session.id}})
	}
}

func (t *step) closed(e Closed) {
	if e.Session != "" && e.Session == t.session.id {
		t.lose()
	}
}
