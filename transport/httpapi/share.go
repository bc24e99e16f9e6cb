package httpapi

import (
	"fmt"
	"sync"

	"github.com/scope-registry/scope-registry/internal/api"
)

const (
	// maxRequestsEach bounds the requests of one caller at the same time, maxRenewalsEach its renewals of leases, which are not
	// among those, and maxWatchersEach its watch streams: a quarter of MaxConns each, so that one caller leaves a quarter of
	// the connections to others.
	maxRequestsEach = MaxConns / 4
	maxRenewalsEach = MaxConns / 4
	maxWatchersEach = MaxConns / 4
)

// shares counts what each caller holds of something, and bounds it.
type shares struct {
	limit int

	mu   sync.Mutex // guards held
	held map[string]int
}

func newShares(limit int) *shares { return &shares{limit: limit, held: map[string]int{}} }

// take is one more for the caller until leave, or LIMIT. what names that in the error.
func (s *shares) take(who, what string) (leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[who] >= s.limit {
		return nil, &api.Error{Code: api.Limit, Detail: fmt.Sprintf("%s has %d %s on this server, which is the limit for one caller; wait for one to end, or use another server", who, s.limit, what)}
	}
	s.held[who]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.held[who]--; s.held[who] == 0 {
			delete(s.held, who)
		}
	}, nil
}
