package sim

import "time"

// rng is a seeded generator (splitmix64). Every part of the world has its own, so
// that one more draw in one place does not change all others.
type rng struct{ state uint64 }

func newRng(seed, stream uint64) *rng {
	r := &rng{seed*0x9e3779b97f4a7c15 ^ stream*0xd1342543de82ef95}
	r.next()
	r.next()
	return r
}

func (r *rng) next() uint64 {
	r.state += 0x9e3779b97f4a7c15
	z := r.state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// below is a number from 0 to n-1.
func (r *rng) below(n int) int { return int(r.next() % uint64(n)) }

// oneIn is true once in n times.
func (r *rng) oneIn(n int) bool { return r.below(n) == 0 }

// between is a time from lo to hi.
func (r *rng) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(r.next()%uint64(hi-lo+1))
}

// pick is one of the values.
func pick[T any](r *rng, of ...T) T { return of[r.below(len(of))] }
