package registry

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"

	"github.com/scope-registry/scope-registry/transport/peer"
)

var errNotYet = errors.New("raft does not run there yet")

// door answers calls from the moment the port is open. Before raft runs it only says who this server is, and takes the word
// of a leader that it is one of a cluster.
type door struct {
	dir      *dataDir
	founding atomic.Pointer[founding] // nil unless the directory was new
	registry atomic.Pointer[Registry]
}

// helloAnswer is what a server says of itself, and of the one that asks.
type helloAnswer struct {
	identity
	// Waits is the cluster that it waits to be joined to, "" if it does not wait.
	Waits string   `json:"waits,omitempty"`
	You   standing `json:"you"`
	// Members are the ids in its configuration of raft, empty until raft runs there.
	Members   []string `json:"members,omitempty"`
	LogFormat int      `json:"log_format,omitempty"`
}

func (d *door) serve(ctx context.Context, from string, kind peer.Kind, payload []byte) ([]byte, error) {
	r, f := d.registry.Load(), d.founding.Load()
	switch {
	case r != nil && r.isRemoved(): // what it knows of others is not to be trusted any more
		return nil, errors.New(removedText(r.cfg.ID))
	case kind == peer.KindHello:
		who := helloAnswer{identity: d.dir.identity(), LogFormat: logFormat}
		if r != nil {
			who.You, who.Members = r.standing(from), idsOf(r.servers())
		} else if f != nil {
			who.Waits = f.waitsFor()
		}
		return json.Marshal(who)
	case r != nil:
		return r.serve(ctx, from, kind, payload)
	case kind == peer.KindInvite && f != nil:
		return f.invited(ctx, payload), nil
	}
	if kind == peer.KindStatus {
		return nil, errNotYet
	}
	return reply(&definite{errNotYet}), nil
}

// idAt is the id of the server at an address, as far as it is known. Before raft runs on a directory that was used, the
// list of this start may be of another time, and nothing is known.
func (d *door) idAt(cfg Config) func(addr string) string {
	return func(addr string) string {
		if r := d.registry.Load(); r != nil {
			return r.idAt(addr)
		}
		if d.dir.identity().Bootstrapped {
			return ""
		}
		return cfg.idAt(addr)
	}
}

// refuse says why a server gets no connection for raft.
func (d *door) refuse(id string) string {
	if r := d.registry.Load(); r != nil {
		return r.refuses(id)
	}
	return errNotYet.Error()
}
