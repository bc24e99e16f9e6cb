package registry

import (
	"testing"
	"testing/synctest"
)

// Requests go out at the same time, and those after them from the same goroutines.
func TestCouriers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCouriers()
		const many = 3
		for round := range 4 {
			begun, let := make(chan struct{}, many), make(chan struct{})
			for range many {
				c.send(func() { begun <- struct{}{}; <-let })
			}
			synctest.Wait()
			if len(begun) != many {
				t.Errorf("round %d: %d of %d requests are on their way", round, len(begun), many)
			}
			close(let)
			synctest.Wait()
			if n := waiting(c); n != many {
				t.Errorf("round %d: %d goroutines wait, want %d", round, n, many)
			}
		}
		c.end() // or the test does not end
	})
}

// waiting is how many take something now.
func waiting(c *couriers) (n int) {
	let := make(chan struct{})
	for ; ; n++ {
		select {
		case c.work <- func() { <-let }:
		default:
			close(let)
			synctest.Wait()
			return n
		}
	}
}
