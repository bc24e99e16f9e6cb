package sim

import (
	"fmt"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
)

// world is everything that is simulated.
type world struct {
	seed   uint64
	now    time.Duration // real time
	queue  queue
	ties   *rng
	net    *rng
	events int
	hash   uint64

	times    api.Leases
	log      *log
	servers  []*server
	nodes    []*node
	operator *proc
	cuts     map[[2]string]bool
	bad      time.Duration            // until when messages are lost, repeated and late
	slow     map[string]time.Duration // until when what servers send to a node is late
	check    *checker
	counts   map[string]int
	ids      int
	clients  *rng
	healing  bool
	backup   fsm.State
	trap     string // what to wait for, see the traps
	trapFor  time.Duration
	streams  map[string]sent
	behind   *server       // that a trap has cut off
	seals    time.Duration // until when sealing takes long
	deletes  time.Duration // until when deleting does

	violation *Violation
	tracing   bool
	trace     []string
}

// Violation is an invariant that did not hold.
type Violation struct {
	Invariant string // I1 … I8, or "check" for the state's own
	What      string
	At        time.Duration
}

func (v *Violation) String() string {
	return fmt.Sprintf("%s violated after %s: %s", v.Invariant, v.At, v.What)
}

// maxTrace bounds the trace lines that are kept: the last ones tell the story.
const maxTrace = 4000

// note adds to the trace, which makes the run's hash.
func (w *world) note(format string, args ...any) {
	w.mix(format)
	if w.tracing {
		w.line(fmt.Sprintf(format, args...))
	}
}

// line adds to the trace alone.
func (w *world) line(text string) {
	line := fmt.Sprintf("%10.4fs %s", w.now.Seconds(), text)
	if len(w.trace) == maxTrace {
		w.trace = w.trace[1:]
	}
	w.trace = append(w.trace, line)
}

// mix adds what happened, and when, to the hash of the run.
func (w *world) mix(text string) {
	for i := range len(text) {
		w.hash = (w.hash ^ uint64(text[i])) * 0x100000001b3
	}
	w.hash = (w.hash ^ uint64(w.now)) * 0x100000001b3
}

func (w *world) count(what string) { w.counts[what]++ }

// fail notes the first violation, which ends the run.
func (w *world) fail(invariant, format string, args ...any) {
	if w.violation == nil {
		w.violation = &Violation{invariant, fmt.Sprintf(format, args...), w.now}
		w.note("VIOLATION %s: %s", invariant, w.violation.What)
	}
}

// event is something that will happen.
type event struct {
	at  time.Duration
	tie uint64
	run func()
}

func (e *event) before(o *event) bool {
	return e.at < o.at || e.at == o.at && e.tie < o.tie
}

// queue is a heap of events.
type queue []*event

func (q *queue) push(e *event) {
	*q = append(*q, e)
	h := *q
	for i := len(h) - 1; i > 0; {
		up := (i - 1) / 2
		if !h[i].before(h[up]) {
			return
		}
		h[i], h[up] = h[up], h[i]
		i = up
	}
}

func (q *queue) pop() *event {
	h := *q
	top := h[0]
	last := len(h) - 1
	h[0] = h[last]
	h = h[:last]
	for i := 0; ; {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(h); c++ {
			if h[c].before(h[least]) {
				least = c
			}
		}
		if least == i {
			break
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
	*q = h
	return top
}

// at has f run at a time, whatever happens until then.
func (w *world) at(when time.Duration, f func()) {
	w.queue.push(&event{max(when, w.now), w.ties.next(), f})
}

func (w *world) after(d time.Duration, f func()) { w.at(w.now+d, f) }

// run goes on until a time, or the first violation.
func (w *world) run(until time.Duration) {
	for len(w.queue) > 0 && w.violation == nil {
		if w.queue[0].at > until {
			break
		}
		e := w.queue.pop()
		w.now = e.at
		w.events++
		e.run()
	}
	w.now = max(w.now, until)
}

// proc is a process with a clock: a server, a node, the operator.
type proc struct {
	w       *world
	name    string
	who     access.Who // to the servers
	alive   bool
	life    int // of its restarts
	paused  bool
	backlog []func()
	behind  bool    // resumed, and what waited is not all done yet
	rate    float64 // of its clock against real time
	rng     *rng
}

func (w *world) newProc(name string, stream uint64) *proc {
	r := newRng(w.seed, stream)
	// Within the promise: at most 10 % wrong.
	rate := 0.9 + float64(r.below(2001))/10000
	if r.oneIn(4) {
		rate = pick(r, 0.9, 1.1)
	}
	return &proc{w: w, name: name, alive: true, rate: rate, rng: r}
}

// clock is what the process reads: CLOCK_BOOTTIME, which goes on while it is
// paused, and its machine suspended.
func (p *proc) clock() time.Duration {
	return time.Hour + time.Duration(float64(p.w.now)*p.rate)
}

// real is the real time at which the process's clock shows a time.
func (p *proc) real(clock time.Duration) time.Duration {
	return time.Duration(float64(clock-time.Hour)/p.rate) + 1
}

// after has the process do f, unless it has died by then. A paused one does it
// when it resumes.
func (p *proc) after(d time.Duration, f func()) {
	life := p.life
	p.w.after(d, func() { p.do(life, f) })
}

func (p *proc) do(life int, f func()) {
	switch {
	case !p.alive || p.life != life:
	case p.paused || p.behind:
		p.backlog = append(p.backlog, f)
	default:
		f()
	}
}

func (p *proc) pause() { p.paused = true }

// resume does what waited, in its order, before anything new.
func (p *proc) resume() {
	p.paused, p.behind = false, true
	life := p.life
	var next func()
	next = func() {
		switch {
		case p.life != life || p.paused:
		case len(p.backlog) == 0:
			p.behind = false
		default:
			f := p.backlog[0]
			p.backlog = p.backlog[1:]
			p.w.after(p.rng.between(0, time.Millisecond), next)
			f()
		}
	}
	next()
}

func (p *proc) die() {
	p.alive, p.paused, p.behind, p.backlog = false, false, false, nil
	p.life++
}

// cut reports whether nothing gets from one process to the other.
func (w *world) cut(from, to *proc) bool {
	return len(w.cuts) > 0 && w.cuts[[2]string{from.name, to.name}]
}

// send brings f to a process, if nothing is in the way; late, twice or never
// while the network is bad.
func (w *world) send(from, to *proc, f func()) {
	if w.cut(from, to) {
		return
	}
	delay := w.net.between(200*time.Microsecond, 3*time.Millisecond)
	if w.now < w.bad {
		switch w.net.below(12) {
		case 0:
			w.count("message lost")
			return
		case 1:
			w.count("message late")
			delay = w.net.between(50*time.Millisecond, 15*time.Second)
		case 2:
			w.count("message twice")
			w.deliver(from, to, w.net.between(time.Millisecond, 10*time.Second), f)
		}
	}
	if w.slow[to.name] > w.now && from.name[0] == 's' {
		delay += w.net.between(0, 10*time.Second)
	}
	w.deliver(from, to, delay, f)
}

// deliver runs f at the process that then has this name, or rather lives: a
// message outlives the process that it was sent to, and meets the next one.
func (w *world) deliver(from, to *proc, delay time.Duration, f func()) {
	w.after(delay, func() {
		if !w.cut(from, to) && to.alive {
			to.do(to.life, f)
		}
	})
}

// call asks another process and answers exactly once: with what it replied, or
// with false if that did not come in time.
func (w *world) call(from, to *proc, patience time.Duration, ask func(reply func(any)), answer func(any, bool)) {
	open := true
	end := func(v any, ok bool) {
		if open {
			open = false
			answer(v, ok)
		}
	}
	life := from.life
	w.send(from, to, func() {
		ask(func(v any) {
			w.send(to, from, func() {
				if from.life == life {
					end(v, true)
				}
			})
		})
	})
	from.after(patience, func() { end(nil, false) })
}

// draw is an id that was never used.
func (w *world) draw(kind string) string {
	w.ids++
	return fmt.Sprintf("%s%d", kind, w.ids)
}
