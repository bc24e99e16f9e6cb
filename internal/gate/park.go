package gate

import (
	"time"

	"github.com/scope-registry/scope-registry/client"
)

// unblockAgain is the pause between two tries to release a command that may wait: it may not have reached the store yet.
const unblockAgain = 2 * time.Millisecond

// parked is a command that may wait in the store, until it is answered.
type parked struct {
	pipe  *pipe
	note  *note
	keys  [][]byte // that it writes
	reads [][]byte // that it only reads, as XREAD
	left  bool     // the client has; guarded by Gate.mu
}

// over tells whether the command has been answered.
func (k *parked) over() bool {
	select {
	case <-k.pipe.ended:
		return true
	default:
		return k.pipe.answered.Load() == k.note
	}
}

// parks has the command released when the node may not write, or read, its keys any more.
func (g *Gate) parks(k *parked) {
	g.mu.Lock()
	g.parked[k.pipe] = k // the one before of this pipe is over
	g.mu.Unlock()
	if g.refusal(k) != nil { // it may have come between the admission and here, and nobody looks again
		g.look()
	}
}

// abandon has a command released whose client has left.
func (g *Gate) abandon(k *parked) {
	g.mu.Lock()
	k.left = true
	g.mu.Unlock()
	g.look()
}

// look has the parked commands looked at.
func (g *Gate) look() {
	select {
	case g.lookNow <- struct{}{}:
	default:
	}
}

// refusal says why a parked command has to be released, nil if it may wait on.
func (g *Gate) refusal(k *parked) error {
	if g.ending.Load() {
		return &client.Error{Code: client.CodeUnavailable, Detail: "the gate is shutting down; the command waited, and did nothing"}
	}
	for _, key := range k.keys {
		if err := g.guard.Owns(key); err != nil {
			return err
		}
	}
	for _, key := range k.reads {
		if err := g.readable(key); err != nil {
			return err
		}
	}
	return nil
}

// watch releases what may not wait any more, whenever the rules change.
func (g *Gate) watch() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		changed := g.changed()
		timer.Reset(time.Hour)
		if g.releaseAll() {
			timer.Reset(unblockAgain)
		}
		select {
		case <-changed:
		case <-g.lookNow:
		case <-timer.C:
		case <-g.life.Done():
			return
		}
	}
}

// releaseAll tells whether there are some that have to be asked again. A command that has just been sent does not wait yet,
// so that one try may find nothing to release.
func (g *Gate) releaseAll() (again bool) {
	g.mu.Lock()
	var due []*parked
	for p, k := range g.parked {
		if k.over() {
			delete(g.parked, p)
			continue
		}
		err := g.refusal(k)
		if err == nil && !k.left {
			continue
		}
		if err != nil {
			line := errorLine(err)
			k.note.released.Store(&line)
		}
		due = append(due, k)
	}
	g.mu.Unlock()
	for _, k := range due {
		if k.over() {
			continue
		}
		again = true
		if err := g.release(k); err != nil && g.life.Err() == nil {
			g.log.Warn("a command that waits in the store could not be released", "error", err)
		}
	}
	return again
}

// release has the store let a command go. The next one of the same client is not sent meanwhile: it would be let go in its
// place.
func (g *Gate) release(k *parked) error {
	k.pipe.parking.Lock()
	defer k.pipe.parking.Unlock()
	if k.over() {
		return nil
	}
	return g.store.Unblock(g.life, k.pipe.up)
}
