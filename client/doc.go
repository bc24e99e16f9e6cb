// Package client is how programs use the registry: as a client of its calls, as
// one that routes keys by itself, and as a node that owns scopes.
//
// A [Client] talks to the servers over /v1. It tries the given ones in turn, and
// never sends a mutation twice unless it surely was not applied or carries the same
// request id.
//
// A [Mirror] keeps the ownership table in this process and routes keys without
// asking anybody; [Mirror.Follow] sends a request to the owner of a key and goes
// after it when the scope has moved.
//
// A node, the process that holds the data, starts a [Session] and has every write
// go through its [Guard]:
//
//	c := client.New([]string{"http://127.0.0.1:7481", "http://127.0.0.1:7491"})
//	s, err := client.StartSession(c, client.SessionConfig{Node: "n1", DataDir: "/var/lib/mine/session", Store: store})
//	…
//	mux.Handle(client.SlicePath, s.Handler()) // how other nodes hand a scope over
//	err = s.Guard().Write(ctx, key, func(ctx context.Context, token client.Token) error {
//		return db.Put(key, value) // durable when it returns
//	})
//
// Of nil the write is done and may be acknowledged. Every other error is the
// answer for whoever asked: it says who owns the key, that the scope is moving, or
// that the outcome is unknown. The session opens and renews itself, closes scopes
// that move away once no write is under way, and hands their records over by the
// methods of the [Store].
//
// docs/client.md in the repository leads through it step by step; examples/store is
// a small store that does all of it.
package client
