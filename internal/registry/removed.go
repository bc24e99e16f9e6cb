package registry

import (
	"context"
	"fmt"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
)

const (
	// removalEvery is how often a server looks whether it, or another one, was removed.
	removalEvery = time.Second

	// removalDoubt is without what a server that does not lead asks the others whether it is still one of them: longer
	// than an election takes, short against the time in which somebody wonders.
	removalDoubt = 3 * time.Second
)

// standing is what the answering server knows of the one that asks.
type standing struct {
	// Member is whether raft's configuration has it.
	Member bool `json:"member,omitempty"`
	// Instance is of the data directory that its id is of, "" if it is not known.
	Instance string `json:"instance,omitempty"`
	// Removed is whether it has left the cluster for good.
	Removed bool `json:"removed,omitempty"`
}

// RemovedError says that this server is none of the cluster any more. Its data directory cannot come back.
type RemovedError struct {
	// ID is this server, Cluster what it was removed from.
	ID, Cluster string
	// Dir is the data directory.
	Dir string
	// Said is when that was said, and by which server.
	Said string
}

// Error implements error.
func (e *RemovedError) Error() string {
	return fmt.Sprintf("server %q was removed from cluster %s (%s); it serves nothing any more, and its data directory %s cannot come back. "+
		"To use this machine again, start a server under another id with an empty data directory, and say: scope-registry cluster join NEW-ID=HOST:PORT",
		e.ID, e.Cluster, e.Said, e.Dir)
}

func removedText(id string) string {
	return fmt.Sprintf("server %q was removed from this cluster and an id is used once: start it under another id, with an empty data directory", id)
}

// standing says what is known of a server. That it was removed is recorded after that was committed.
func (r *Registry) standing(id string) standing {
	_, member := find(r.servers(), id)
	out := standing{Member: member, Instance: r.instanceOf(id)}
	if s, ok := r.fsm.State().Server(id); ok {
		out.Removed = s.Phase == fsm.ServerGone
	}
	return out
}

// instanceOf is the data directory an id is of, as far as this server knows.
func (r *Registry) instanceOf(id string) string {
	if s, ok := r.fsm.State().Server(id); ok && s.Instance != "" {
		return s.Instance
	}
	return r.dir.identity().Founders[id]
}

// watchRemovals ends what servers that were removed have open here, and this server when it is one. Raft does not tell a
// server that it was removed: it is sent nothing any more, at times not even the entry that says so.
func (r *Registry) watchRemovals() {
	var seen uint64 // up to which index servers that have gone were looked at
	for r.ctx.Err() == nil {
		wait(r.ctx, removalEvery)
		last := seen
		for _, s := range r.fsm.State().Servers() {
			if s.Phase == fsm.ServerGone && s.Since > last {
				seen = max(seen, s.Since)
				r.expel(s.ID)
			}
		}
		if r.doubts() && r.askStanding() {
			return
		}
	}
}

// doubts is whether this server has cause to ask if it is one of the cluster.
func (r *Registry) doubts() bool {
	if servers := r.servers(); len(servers) > 0 {
		if _, ok := find(servers, r.cfg.ID); !ok {
			return true
		}
	}
	age, leads := r.contact()
	return !leads && age > removalDoubt
}

// askStanding asks every server it knows of, and is true when this one was removed.
func (r *Registry) askStanding() bool {
	ctx, cancel := context.WithTimeout(r.ctx, helloTimeout)
	defer cancel()
	asked := r.knownServers()
	said := make(chan string, len(asked))
	for _, p := range asked {
		go func() {
			who, err := hello(ctx, r.calls, p)
			if err == nil && who.Cluster == r.clusterID && who.You.Removed {
				said <- fmt.Sprintf("said server %q at %s", p.ID, time.Now().UTC().Format(time.RFC3339))
				return
			}
			said <- ""
		}()
	}
	text := ""
	for range asked {
		if s := <-said; s != "" {
			text = s
		}
	}
	if text == "" {
		return false
	}
	r.leave(text)
	return true
}

// leave makes the end of this server's membership known, here and at each later start.
func (r *Registry) leave(said string) {
	who := r.dir.identity()
	who.Removed = said
	if err := r.dir.set(who); err != nil {
		r.log.Error("the data directory could not be marked as one of a server that was removed; remove it by hand", "error", err)
	}
	close(r.removed)
	r.alarm.raise(&RemovedError{ID: r.cfg.ID, Cluster: r.clusterID, Dir: r.cfg.DataDir, Said: said})
}

// knownServers are all other servers that this one may ask: those of the configuration, those the log knows, and those of
// the list it was started with.
func (r *Registry) knownServers() (out []Peer) {
	seen := map[string]bool{r.cfg.ID: true, r.cfg.addrOf(r.cfg.ID): true}
	add := func(id, addr string) {
		if !seen[addr] && id != r.cfg.ID {
			seen[addr] = true
			out = append(out, Peer{ID: id, Addr: addr})
		}
	}
	for _, s := range r.servers() {
		add(string(s.ID), string(s.Address))
	}
	for _, s := range r.fsm.State().Servers() {
		if s.Phase != fsm.ServerGone {
			add(s.ID, s.Addr)
		}
	}
	for _, p := range r.cfg.Peers {
		add(p.ID, p.Addr)
	}
	for _, p := range r.dir.identity().Peers {
		add(p.ID, p.Addr)
	}
	return out
}

// isRemoved says whether this server knows that it is none of the cluster any more.
func (r *Registry) isRemoved() bool {
	select {
	case <-r.removed:
		return true
	default:
		return false
	}
}
