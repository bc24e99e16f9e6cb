package registry

import "sync"

// couriers are goroutines that carry requests to followers. Each waits for another when it is done: the stack of a new goroutine
// is copied several times on its way down to the transport's write, for which every change had to wait.
type couriers struct {
	work chan func()
	all  sync.WaitGroup
}

func newCouriers() *couriers { return &couriers{work: make(chan func())} }

// send has one that waits do f, or another one if none does: there are never more than did something at the same time.
func (c *couriers) send(f func()) {
	select {
	case c.work <- f:
	default:
		c.all.Go(func() {
			for more := true; more; f, more = <-c.work {
				f()
			}
		})
	}
}

// end returns when all have ended. Nothing may be sent any more.
func (c *couriers) end() {
	close(c.work)
	c.all.Wait()
}
