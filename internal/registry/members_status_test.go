package registry

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

// A status in which a join is over shows the vote that it ended with, also where it took long to ask all members.
func TestStatusShowsTheVoteOfAJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := memberNetwork(t, 3)
		l := n.leader("")
		n.waiting("s4")
		change, err := l.reg.Join(t.Context(), as(admin, nil), "s4", "s4:1")
		if err != nil {
			t.Fatal(err)
		}
		n.hang(n.other(l.id).id) // every status takes as long as one may
		var asked sync.WaitGroup
		for range 100 { // one of them is under way when the join ends
			asked.Go(func() {
				s, err := l.reg.Status(t.Context(), false)
				voter := slices.ContainsFunc(s.Members, func(m api.Member) bool { return m.ID == "s4" && m.Voter })
				if err != nil || s.Index >= change.Since && s.Change == nil && !voter {
					t.Errorf("the join is over at index %d and s4 has no vote: %+v, %v", s.Index, s.Members, err)
				}
			})
			<-time.After(100 * time.Millisecond)
		}
		asked.Wait()
		n.hang("")
		n.votes("s4")
	})
}
