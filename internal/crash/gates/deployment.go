package gates

import (
	"context"

	"github.com/scope-registry/scope-registry/client"
)

// Deployment is what a rig runs on: three servers of the registry, and nodes. What can be ended has a name: that of a server
// is its id, and those of a node are [GateOf] and [StoreOf] it.
type Deployment interface {
	// Up starts all of it with empty data, and does not wait until it is ready.
	Up(ctx context.Context) error
	// Client is a new client of the servers, who may do everything.
	Client() *client.Client
	// Nodes are the nodes, in order.
	Nodes() []Node
	// Kill ends a machine without notice and returns when it is gone; Start starts it again on the data it had.
	Kill(ctx context.Context, machine string) error
	Start(ctx context.Context, machine string) error
	// Life tells one life of a machine, from a start to its end, from all others.
	Life(ctx context.Context, machine string) (string, error)
	// Running is an error when one has ended by itself.
	Running(ctx context.Context) error
	// Logs are the ends of what all have printed.
	Logs(ctx context.Context) string
	// Close ends all, also what Up has only begun.
	Close() error
}

// Node is a Redis server with its gate. Addresses are host:port.
type Node struct {
	ID   string
	Addr string // of the gate, in the registry: what MISDIRECTED names
	Gate string // where the gate is reached from here
	// Store is where the keys of the store are seen from here: at itself, past its gate, unless nobody but the gate reaches it.
	Store string
}

// GateOf is the name of a node's gate.
func GateOf(node string) string { return "gate of " + node }

// StoreOf is the name of a node's Redis server.
func StoreOf(node string) string { return "redis of " + node }

// NodeIDs are the nodes that a deployment has.
func NodeIDs() []string { return []string{"n1", "n2"} }
