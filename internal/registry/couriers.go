package registry

import "sync"

// couriers are goroutines that carry requests to followers. Each waits for another when it is done: the stack of a new goroutine
// is copied several times on its way down to the transport's write, for which every change had to wait.
type couriers struct {
	work chan func()
	all  sync.WaitGroup
}

func newCouriers() *couriers { return &couriers{work: make(chan func())} }

// send has one that waits do f, or another one if none does: f never waits for what another does. So there are as many as did something, or were about to
// wait, at the same time: two for each follower, as a rule.
func (c *couriers) send(f func()) {
	select {
	case c.work <- f:
	default:
		c.all.Go(func() {
			for more := true; more; f, more = <-c.work {
				f()
				f = nil // what it holds is not held while this one waits
			}
		})
	}
}

// end returns when all have ended. Nothing may be sent any more.
func (c *couriers) end() {
	close(c.work)
	c.all.Wait()
}
