package client

import (
	"context"
	"fmt"
	"testing"

	"github.com/scope-registry/scope-registry/internal/api"
)

// While a move runs both ends say how far it is; afterwards neither knows of it.
func TestMovesOfASession(t *testing.T) {
	const keys = 1500
	s := startServer(t)
	a, b := s.node("a"), s.node("b")
	s.declare(a.c, "x:", api.Declare{Writer: "a"}, a, b)
	for i := range keys {
		if err := a.put(fmt.Sprintf("x:%04d", i), "value"); err != nil {
			t.Fatal(err)
		}
	}
	held, goOn := make(chan struct{}), make(chan struct{})
	b.store.fails(func(ctx context.Context, op, _ string) error {
		if op == "verify" {
			close(held)
			select {
			case <-goOn:
			case <-ctx.Done():
			}
		}
		return nil
	})
	begun, err := a.c.StartMove(t.Context(), api.StartMove{Prefix: "x:", From: "a", To: "b"})
	if err != nil {
		t.Fatal(err)
	}
	<-held
	var size uint64
	for i := range keys {
		r, _ := a.store.get(fmt.Sprintf("x:%04d", i))
		size += sizeOf(r)
	}
	want := MoveStatus{Move: begun.ID, Prefix: "x:", From: "a", To: "b", Phase: "shipped", Keys: keys, Bytes: size}
	for _, n := range []*testNode{b, a} {
		s.eventually(n.id+" says how far it is", func() error {
			if got := n.Moves(); len(got) != 1 || got[0] != want {
				return fmt.Errorf("%+v, want %+v", got, want)
			}
			return nil
		})
		want.LeftKnown = true // of none
	}
	close(goOn)
	s.eventually("the move is over", func() error {
		if left := append(a.Moves(), b.Moves()...); len(left) > 0 {
			return fmt.Errorf("%+v", left)
		}
		return nil
	})
	s.eventually("the slice is in force", func() error { return b.put("x:0000", "b's") })
	b.holds("x:0007", "value")
}
