package registry

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/internal/access"
)

const (
	// meetEvery is the pause between two rounds of asking who is a member. Whoever dials decides when the next one is due.
	meetEvery = time.Second

	// meetTimeout bounds one round.
	meetTimeout = helloTimeout

	// believedFor is how long a server counts as a member because others have said so. A true one has sent the
	// configuration that says it within that.
	believedFor = time.Minute
)

// acquaintances are the servers that are members as others have said. A server that was down does not know who has joined
// meanwhile, and it is one of those that sends it the log in which that stands.
type acquaintances struct {
	due chan struct{} // a round of asking to make

	mu   sync.Mutex // guards the rest
	ids  map[string]bool
	said time.Time
}

func newAcquaintances() *acquaintances { return &acquaintances{due: make(chan struct{}, 1)} }

func (a *acquaintances) has(id string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ids[id] && time.Since(a.said) < believedFor
}

func (a *acquaintances) set(ids map[string]bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ids, a.said = ids, time.Now()
}

// askAgain makes a round due.
func (a *acquaintances) askAgain() {
	select {
	case a.due <- struct{}{}:
	default:
	}
}

// refuses says why a server is not one that may take part, "" if it may: it is in raft's newest configuration here, or, where
// none has arrived yet, among those that this one was invited by; or a member says that it is one. It does not block.
func (r *Registry) refuses(id string) string {
	if r.standing(id).Removed {
		return removedText(id)
	}
	known := peersOf(r.servers())
	if len(known) == 0 {
		known = r.dir.identity().Peers
	}
	for _, p := range known {
		if p.ID == id {
			return ""
		}
	}
	if r.met.has(id) {
		return ""
	}
	r.met.askAgain()
	return fmt.Sprintf("server %q is not one of %s, which are the members as server %q knows; it asks them whether there are others. "+
		"If none of them is left, start server %q with those that are in its --cluster", id, showPeers(known), r.cfg.ID, r.cfg.ID)
}

// meetOthers asks who the members are, at the start and when somebody dials who is not known to be one.
func (r *Registry) meetOthers() {
	r.met.askAgain()
	for {
		select {
		case <-r.met.due:
			if ids := r.membersAsSaid(); len(ids) > 0 { // else nobody was there to ask
				r.met.set(ids)
			}
		case <-r.ctx.Done():
			return
		}
		wait(r.ctx, meetEvery)
	}
}

// membersAsSaid asks every server that this one has cause to believe: those that it knows, and those that it was started with.
func (r *Registry) membersAsSaid() map[string]bool {
	ctx, cancel := context.WithTimeout(r.ctx, meetTimeout)
	defer cancel()
	asked := r.knownServers()
	answers := make(chan []string, len(asked))
	for _, p := range asked {
		go func() {
			who, err := hello(ctx, r.calls, p)
			if err != nil || who.ID != p.ID || who.Cluster != r.clusterID || r.standing(p.ID).Removed || len(who.Members) > maxPeers {
				who.Members = nil
			}
			answers <- who.Members
		}()
	}
	ids := map[string]bool{}
	for range asked {
		for _, id := range <-answers {
			ids[id] = true
		}
	}
	return ids
}

// ownCertificate refuses a certificate that is another one's than this server's.
func (cfg Config) ownCertificate() error {
	if cfg.Certs == nil {
		return nil
	}
	if who := cfg.Certs.Who(); who.Role != access.Server || who.ID != cfg.ID {
		return fmt.Errorf("the certificate is that of %s, and this is server %q, whom the others would not believe; issue one for it", who, cfg.ID)
	}
	return nil
}
