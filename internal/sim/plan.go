package sim

import (
	"fmt"
	"sort"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/scope"
)

// action is something that is done to the world, at a time. What its numbers mean
// is up to its kind.
type action struct {
	at   time.Duration
	kind string
	a, b int
	d    time.Duration
	flag bool
}

func (a action) String() string {
	return fmt.Sprintf("%7.2fs %-16s %d %d %s %v", a.at.Seconds(), a.kind, a.a, a.b, a.d.Round(time.Millisecond), a.flag)
}

// length of the part of a run in which things are done to the world.
const length = 50 * time.Second

// prefixes that the plan moves about. Others come by retiring and declaring.
var prefixes = []scope.Prefix{"a:", "b:", "c:", "d:"}

// kinds of the random walk, with how often each is drawn.
var kinds = []struct {
	kind   string
	weight int
}{
	{"move", 10}, {"move precopy", 3}, {"move assisted", 2}, {"abort", 2}, {"options", 3}, {"force", 1}, {"redeclare", 2}, {"shutdown node", 2},
	{"crash node", 4}, {"pause node", 4}, {"cut node", 4}, {"cut nodes", 2}, {"cut one way", 2}, {"wipe", 2}, {"impostor", 1},
	{"crash server", 3}, {"crash leader", 2}, {"pause server", 2}, {"pause leader", 2}, {"cut server", 2}, {"cut leader", 2}, {"transfer", 1},
	{"bad network", 2}, {"break watches", 1}, {"backup", 1}, {"restore", 1},
}

// planFor draws what is done in the run of a seed: a random walk, or one of the
// directed schedules with less of it around.
func planFor(seed uint64) []action {
	r := newRng(seed, 1)
	var plan []action
	n := 18
	if d, ok := scheduleOf(seed); ok {
		plan = d.plan(r)
		n = r.below(8)
	}
	for range n {
		plan = append(plan, randomAction(r))
	}
	sort.SliceStable(plan, func(i, j int) bool { return plan[i].at < plan[j].at })
	return plan
}

// scheduleOf is the directed schedule of a seed; false for a random walk.
func scheduleOf(seed uint64) (schedule, bool) {
	d := seed % uint64(2*len(directed))
	if d >= uint64(len(directed)) {
		return schedule{name: "a random walk"}, false
	}
	return directed[d], true
}

// ScheduleOf names the directed schedule of a seed, or says that it is a walk.
func ScheduleOf(seed uint64) string {
	d, _ := scheduleOf(seed)
	return d.name
}

func randomAction(r *rng) action {
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	at := r.below(total)
	for _, k := range kinds {
		if at -= k.weight; at < 0 {
			return action{at: r.between(time.Second, length), kind: k.kind, a: r.below(60), b: r.below(60), d: r.between(100*time.Millisecond, 16*time.Second), flag: r.oneIn(2)}
		}
	}
	return action{}
}

// schedule is a plan for one trace that a rule of the protocol closes.
type schedule struct {
	name string
	plan func(*rng) []action
}

// script is a plan whose actions come one after the other.
type script struct {
	r    *rng
	at   time.Duration
	plan []action
}

func (s *script) then(wait time.Duration, a action) *script {
	s.at += s.r.between(wait*2/3, wait*4/3)
	a.at = s.at
	s.plan = append(s.plan, a)
	return s
}

func begin(r *rng) *script { return &script{r: r, at: time.Second} }

const (
	ms  = time.Millisecond
	sec = time.Second
)

var directed = []schedule{
	{"there and back", func(r *rng) []action { // A→B→A with restarts between the steps
		s := begin(r)
		p, x := r.below(4), r.below(4)
		for i := range 4 {
			s.then(2*sec, action{kind: "move", a: p, b: x + i%2, flag: true})
			s.then(r.between(5*ms, 400*ms), action{kind: pick(r, "crash node", "pause node"), a: x + r.below(2), d: r.between(50*ms, 2*sec)})
			s.then(4*sec, action{kind: "nothing"})
		}
		return s.plan
	}},
	{"takeover and return", func(r *rng) []action { // the owner is away, comes back, and gets its scope by a move
		s := begin(r)
		return s.then(3*sec, action{kind: pick(r, "pause owner", "cut owner"), a: 0, d: r.between(11*sec, 18*sec)}).
			then(19*sec, action{kind: "move", a: 0, b: 0, flag: true}).
			then(r.between(100*ms, 6*sec), action{kind: pick(r, "pause owner", "cut owner", "crash owner"), a: 0, d: r.between(11*sec, 15*sec)}).plan
	}},
	{"policy change during a cut", func(r *rng) []action { // the owner does not know that it needs a lease
		s := begin(r)
		p := pick(r, 1, 2)
		return s.then(2*sec, action{kind: "cut owner", a: p, d: r.between(20*sec, 30*sec)}).
			then(r.between(500*ms, 3*sec), action{kind: "options auto", a: p, b: r.below(4)}).
			then(16*sec, action{kind: "nothing"}).plan
	}},
	{"restart between steps", func(r *rng) []action {
		s := begin(r)
		for range 5 {
			p := r.below(4)
			s.then(3*sec, action{kind: pick(r, "move", "move precopy"), a: p, b: r.below(4), flag: true})
			s.then(r.between(1*ms, 300*ms), action{kind: pick(r, "crash source", "crash target", "crash leader"), a: p, d: r.between(20*ms, 900*ms)})
			if r.oneIn(2) {
				s.then(r.between(50*ms, 500*ms), action{kind: pick(r, "crash target", "stale watch"), a: p, d: r.between(20*ms, 300*ms)})
			}
		}
		return s.plan
	}},
	{"the target leaves for good", func(r *rng) []action { // what a node said must not count for the next on its name
		s := begin(r)
		for range 3 {
			p, to := r.below(4), r.below(4)
			s.then(sec, action{kind: "bad network", d: 3 * sec})
			s.then(r.between(50*ms, sec), action{kind: "move", a: p, b: to, flag: true})
			s.then(r.between(20*ms, 250*ms), action{kind: "shutdown target", a: p, d: r.between(200*ms, 2*sec), flag: true})
			s.then(6*sec, action{kind: "nothing"})
		}
		return s.plan
	}},
	{"restore", func(r *rng) []action {
		s := begin(r)
		s.then(2*sec, action{kind: "backup"})
		s.then(2*sec, action{kind: "move", a: r.below(4), b: r.below(4), flag: true})
		s.then(2*sec, action{kind: pick(r, "cut owner", "nothing", "cut node"), a: r.below(4), d: r.between(5*sec, 25*sec)})
		s.then(sec, action{kind: "restore", flag: r.oneIn(2), b: r.below(2)})
		return s.then(r.between(500*ms, 15*sec), action{kind: pick(r, "move", "restore", "redeclare", "force"), a: r.below(4), b: r.below(4), flag: r.oneIn(2)}).plan
	}},
	{"restore into a move", func(r *rng) []action {
		s := begin(r)
		s.then(3*sec, action{kind: "cut pair", a: 0, d: 6 * sec})
		s.then(200*ms, action{kind: "move long", a: 0, b: 2, flag: true})
		s.then(r.between(300*ms, sec), action{kind: "backup"})
		return s.then(r.between(sec, 9*sec), action{kind: "restore", flag: r.oneIn(2)}).plan
	}},
	{"a renewal at the last moment", func(r *rng) []action { // the deadline passes while it is being confirmed
		s := begin(r)
		for range 2 {
			s.then(3*sec, action{kind: "trap", b: 1})
			s.then(sec, action{kind: "cut owner", a: r.below(4), d: r.between(7*sec, 10*sec)})
			s.then(12*sec, action{kind: "nothing"})
		}
		return s.plan
	}},
	{"an office lost and won again", func(r *rng) []action { // what was proposed in the one must not count in the other
		s := begin(r)
		for range 2 {
			s.then(3*sec, action{kind: "trap", b: 0})
			s.then(sec, action{kind: "cut owner", a: r.below(4), d: 14 * sec})
			s.then(15*sec, action{kind: "nothing"})
		}
		return s.plan
	}},
	{"an answer that outlives its lease", func(r *rng) []action { // the node is stopped between asking and hearing
		s := begin(r)
		for range 3 {
			s.then(2*sec, action{kind: "trap", b: 2, d: r.between(9*sec, 13*sec)})
			s.then(13*sec, action{kind: "nothing"})
		}
		return s.plan
	}},
	{"a word that outlives its disk", func(r *rng) []action { // the node closes, gets an empty disk, and what it said comes
		s := begin(r)
		for range 3 {
			s.then(sec, action{kind: "trap", b: 3})
			s.then(100*ms, action{kind: "move long", a: r.below(4), b: r.below(4), flag: true})
			s.then(9*sec, action{kind: "nothing"})
		}
		return s.plan
	}},
	{"a promoted stream comes again", func(r *rng) []action { // to a node that started anew and sees the past
		s := begin(r)
		for range 2 {
			s.then(sec, action{kind: "trap", b: 4})
			s.then(300*ms, action{kind: "move", a: r.below(4), b: r.below(4), flag: true})
			s.then(16*sec, action{kind: "nothing"})
		}
		return s.plan
	}},
	{"snapshots of a server that lags", func(r *rng) []action {
		s := begin(r)
		s.then(2*sec, action{kind: "cut follower", d: 20 * sec})
		for range 6 {
			s.then(r.between(500*ms, 3*sec), action{kind: "slow watchers"})
		}
		return s.plan
	}},
	{"the source dies when all is shipped", func(r *rng) []action { // the target takes long to seal; nobody takes over meanwhile
		s := begin(r)
		s.then(sec, action{kind: "slow seals", d: 6 * sec})
		s.then(200*ms, action{kind: "move long", a: 0, b: 2, flag: true})
		return s.then(r.between(300*ms, 900*ms), action{kind: pick(r, "cut owner", "crash owner", "pause owner"), a: 0, d: 15 * sec}).plan
	}},
	{"one number restored twice", func(r *rng) []action {
		s := begin(r)
		s.then(2*sec, action{kind: "backup"})
		s.then(300*ms, action{kind: "restore", flag: true, b: r.below(2)})
		s.then(4*sec, action{kind: "nothing"})
		p := r.below(4)
		for range r.below(2) + 1 {
			s.then(2*sec, action{kind: "move", a: p, b: r.below(4), flag: true})
		}
		s.then(sec, action{kind: pick(r, "cut node", "nothing"), a: r.below(4), d: r.between(2*sec, 9*sec)})
		s.then(sec, action{kind: "restore twice", flag: true, b: pick(r, 0, 1, 1)})
		s.then(r.between(2*sec, 9*sec), action{kind: "crash owner", a: p, d: 100 * ms})
		return s.then(r.between(8*sec, 15*sec), action{kind: "restore", flag: true}).plan
	}},
	{"tombstones", func(r *rng) []action { // who owned a retired scope may not have heard
		s := begin(r)
		p := r.below(4)
		s.then(2*sec, action{kind: pick(r, "cut owner", "pause owner", "stale owner"), a: p, d: r.between(8*sec, 25*sec)})
		return s.then(r.between(200*ms, 2*sec), action{kind: "redeclare", a: p, b: r.below(4), d: pick[time.Duration](r, 0, 1, 1, 2), flag: r.oneIn(3)}).
			then(4*sec, action{kind: "redeclare", a: r.below(4), b: r.below(4), d: time.Duration(r.below(4)), flag: r.oneIn(3)}).plan
	}},
	{"a leader that comes back", func(r *rng) []action { // it renews nobody and expires nobody
		s := begin(r)
		for range 3 {
			s.then(2*sec, action{kind: pick(r, "pause leader", "cut leader", "stop leader's clock"), d: r.between(500*ms, 14*sec)})
			s.then(r.between(0, 6*sec), action{kind: pick(r, "cut owner", "pause owner", "crash leader"), a: 0, d: r.between(2*sec, 14*sec)})
		}
		return s.plan
	}},
	{"a leader that wakes up", func(r *rng) []action { // and is all that a node can reach, while another one counts its lease
		s := begin(r)
		for range 2 {
			s.then(3*sec, action{kind: "leave owner with the leader", a: r.below(4), d: r.between(7*sec, 11*sec)})
			s.then(15*sec, action{kind: "nothing"})
		}
		return s.plan
	}},
	{"cleanups", func(r *rng) []action { // an old copy is deleted, and its node gets the scope again
		s := begin(r)
		p := r.below(4)
		s.then(sec, action{kind: pick(r, "nothing", "slow deletes"), d: 30 * sec})
		s.then(sec, action{kind: "move", a: p, b: r.below(4), flag: true})
		s.then(r.between(2500*ms, 4500*ms), action{kind: pick(r, "pause source", "stale source", "cut source"), a: p, d: r.between(500*ms, 9*sec)})
		s.then(r.between(100*ms, 3*sec), action{kind: pick(r, "force back", "force back", "move back"), a: p})
		return s.then(3*sec, action{kind: "move", a: p, b: r.below(4), flag: true}).plan
	}},
	{"back while the copy is deleted", func(r *rng) []action { // by force, as the new owner is off
		s := begin(r)
		s.then(sec, action{kind: "slow deletes", d: 40 * sec})
		s.then(sec, action{kind: "move", a: 1, b: r.below(4), flag: true})
		return s.then(r.between(300*ms, 900*ms), action{kind: "force back", a: 1}).
			then(6*sec, action{kind: pick(r, "nothing", "cut source", "stale source"), a: 1, d: r.between(6*sec, 12*sec)}).plan
	}},
	{"the fallback owes a cleanup", func(r *rng) []action { // and takes over while it deletes
		s := begin(r)
		s.then(2*sec, action{kind: "options none", a: 0})
		s.then(sec, action{kind: "move", a: 0, b: 1, flag: true})
		s.then(sec, action{kind: "move", a: 0, b: 2, flag: true})
		s.then(sec, action{kind: "options source", a: 0})
		s.then(sec, action{kind: "cut owner", a: 0, d: 16 * sec})
		return s.then(10*sec, action{kind: pick(r, "stale watch", "nothing"), a: 0}).plan
	}},
	{"an impostor", func(r *rng) []action {
		s := begin(r)
		p := r.below(4)
		s.then(2*sec, action{kind: pick(r, "cut owner", "pause owner"), a: p, d: r.between(12*sec, 25*sec)})
		return s.then(r.between(sec, 12*sec), action{kind: "impostor of owner", a: p}).plan
	}},
	{"writes stuck in a store", func(r *rng) []action { // they must not land on a slice that came later
		s := begin(r)
		s.then(sec, action{kind: "stuck", a: 0, d: r.between(18*sec, 30*sec)})
		s.then(300*ms, action{kind: "cut owner", a: 0, d: r.between(11*sec, 14*sec)})
		return s.then(16*sec, action{kind: "move back", a: 0}).
			then(r.between(500*ms, 4*sec), action{kind: "move", a: 0, b: r.below(4), flag: true}).plan
	}},
	{"a write that outlives its session", func(r *rng) []action { // and the view of its node is old
		s := begin(r)
		s.then(sec, action{kind: "cut server", a: 1, d: r.between(18*sec, 26*sec)})
		s.then(300*ms, action{kind: "stuck", a: 0, d: r.between(12*sec, 17*sec)})
		s.then(100*ms, action{kind: "cut owner", a: 0, d: r.between(11*sec, 13*sec)})
		return s.then(20*sec, action{kind: "nothing"}).plan
	}},
	{"a stream comes again", func(r *rng) []action { // after its slice was promoted, to a node whose view is old
		s := begin(r)
		for range 3 {
			s.then(sec, action{kind: "bad network", d: 2 * sec})
			s.then(200*ms, action{kind: "move", a: 3, b: r.below(4), flag: true})
			s.then(r.between(20*ms, 60*ms), action{kind: "cut follower", d: r.between(6*sec, 12*sec)})
			s.then(r.between(200*ms, 900*ms), action{kind: "crash target", a: 3, d: r.between(50*ms, 500*ms)})
			s.then(9*sec, action{kind: "nothing"})
		}
		return s.plan
	}},
	{"the owner dies in a move", func(r *rng) []action { // nobody takes over in the middle
		s := begin(r)
		for range 3 {
			s.then(2*sec, action{kind: "cut pair", a: 0, b: r.below(4), d: r.between(2*sec, 12*sec)})
			s.then(r.between(10*ms, 200*ms), action{kind: "move long", a: 0, b: 2, flag: true})
			s.then(r.between(20*ms, 600*ms), action{kind: pick(r, "cut owner", "crash owner", "pause owner"), a: 0, d: r.between(11*sec, 15*sec)})
			s.then(10*sec, action{kind: "nothing"})
		}
		return s.plan
	}},
	{"a renewal in a bad hour", func(r *rng) []action { // answers come late, to a node that writes on them
		s := begin(r)
		for range 4 {
			s.then(2*sec, action{kind: "bad network", d: r.between(4*sec, 9*sec)})
			s.then(r.between(500*ms, 4*sec), action{kind: pick(r, "cut one way", "cut owner", "slow answers"), a: 0, b: 0, d: r.between(8*sec, 12*sec)})
		}
		return s.plan
	}},
}

// perform does an action.
func (w *world) perform(a action) {
	w.note("ACTION %s", a)
	if w.perform1(a) || w.performFault(a) || w.performOnServer(a) || w.performOnOwner(a) {
		return
	}
	w.fail("check", "action %q is not known", a.kind)
}

// scopeOf is the scope that an action is about.
func (w *world) scopeOf(a action) scope.Prefix {
	if a.flag || a.a < len(prefixes) {
		return prefixes[a.a%len(prefixes)]
	}
	if s, ok := w.scopeAt(a.a); ok {
		return s.Prefix
	}
	return prefixes[0]
}

// perform1 does what an operator does.
func (w *world) perform1(a action) bool {
	p := w.scopeOf(a)
	switch a.kind {
	case "nothing":
	case "move":
		w.move(p, a.b, "", false)
	case "move precopy":
		w.move(p, a.b, "agent", true)
	case "move assisted":
		w.move(p, a.b, "assisted", false)
	case "move long":
		w.moveLong(p, a.b)
	case "abort":
		w.abort(a.a % 3)
	case "options":
		w.options(p, pick(w.operator.rng, "auto", "manual"), pick(w.operator.rng, "auto", "always"), w.idAt(a.b))
	case "options auto":
		w.options(p, "auto", "auto", w.fallbackFor(p, a.b))
	case "options none":
		w.options(p, "auto", "auto", "")
	case "options source":
		w.fallbackToSource(p)
	case "force":
		w.force(p, a.b)
	case "redeclare":
		w.redeclare(p, a.b, int(a.d), a.flag)
	case "backup":
		w.backup = w.log.last
		w.count("backup")
	case "restore":
		w.restore(w.backup, w.log.last.Cluster().Incarnation+1, a.flag, a.b%2 == 1)
	case "restore twice":
		w.count("fault: one incarnation number for two restores")
		w.restore(w.backup, w.log.last.Cluster().Incarnation, a.flag, a.b%2 == 1)
	default:
		return false
	}
	return true
}

// fallbackFor is a node that does not own the scope.
func (w *world) fallbackFor(p scope.Prefix, i int) scope.NodeID {
	if s, ok := w.log.last.Scopes().Get(p); ok && w.idAt(i) == s.Writer {
		i++
	}
	return w.idAt(i)
}

// fallbackToSource makes the node that the scope came from last its fallback, as
// soon as it does not owe a cleanup; it may owe one by a declare that forgot.
func (w *world) fallbackToSource(p scope.Prefix) {
	if m, ok := w.log.last.Moves().LookupMigrated(p); ok {
		w.retried(func() fsm.Command {
			s, _ := w.log.last.Scopes().Get(p)
			if s == nil {
				return &fsm.Quiesce{Move: "none"}
			}
			return &fsm.Declare{Prefix: p.Bytes(), Writer: string(s.Writer), Fallback: string(m.From)}
		}, 8*sec, nil, ignore)
	}
}
