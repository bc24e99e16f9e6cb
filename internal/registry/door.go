package registry

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"

	"github.com/scope-registry/scope-registry/transport/peer"
)

var errNotYet = errors.New("raft does not run there yet")

// door answers calls from the moment the port is open. Before raft runs it only says who this server is.
type door struct {
	dir      *dataDir
	registry atomic.Pointer[Registry]
}

func (d *door) serve(ctx context.Context, from string, kind peer.Kind, payload []byte) ([]byte, error) {
	if kind == peer.KindHello {
		return json.Marshal(d.dir.identity())
	}
	if r := d.registry.Load(); r != nil {
		return r.serve(ctx, from, kind, payload)
	}
	if kind == peer.KindStatus {
		return nil, errNotYet
	}
	return reply(&definite{errNotYet}), nil
}
