package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
)

func (c *cli) routeCmd() *cobra.Command {
	var o client.RouteOptions
	cmd := &cobra.Command{
		Use: "route KEY", Short: "Say who writes a key",
		Long: `Say who writes a key. With --as it is the verdict which that node's store answers
its clients: OK, MISDIRECTED, QUIESCED or UNKNOWN. A verdict is an answer, not an
error: exit 0.`,
		Example: "  scope-registry route app:billing:invoice:1 --as server-eu-1 --consistency linearizable",
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := parseKey(args[0])
			if err != nil {
				return err
			}
			cl := c.dial()
			defer cl.Close()
			r, err := cl.Route(cmd.Context(), key, o)
			if err != nil {
				return err
			}
			return c.show(r, func() error {
				if r.Owner == "" && r.Verdict == "" {
					return c.printf("no declared scope is a prefix of %s (index %d); scope list shows those that are\n", r.Key, r.Index)
				}
				return c.facts("reply", r.Reply, "verdict", r.Verdict, "prefix", r.Prefix, "owner", r.Owner, addrOf(r), r.Addr,
					"epoch", num(r.Epoch), "state", r.State, "target", r.Target, "index", num(r.Index))
			})
		},
	}
	cmd.Flags().StringVar(&o.As, "as", "", "node that asks: it gets the verdict a store answers its clients")
	cmd.Flags().StringVar(&o.Consistency, "consistency", "", "local or linearizable")
	cmd.Flags().Uint64Var(&o.MinIndex, "min-index", 0, "wait until the server has applied this index")
	return cmd
}

// addrOf names the address of a route: while a scope moves it is the target's.
func addrOf(r api.Route) string {
	if r.Target != "" {
		return "target addr"
	}
	return "addr"
}

func (c *cli) explainCmd() *cobra.Command {
	return &cobra.Command{
		Use: "explain KEY", Short: "Say why a key routes as it does",
		Long: `Say why a key routes as it does: its scope, owner and epoch, the move that runs
and what it waits for, and the servers and nodes that have not seen the last
change. Settled says whether all nodes with a session have.`,
		Example: "  scope-registry explain app:billing:invoice:1",
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := parseKey(args[0])
			if err != nil {
				return err
			}
			cl := c.dial()
			defer cl.Close()
			e, err := cl.Explain(cmd.Context(), key)
			if err != nil {
				return err
			}
			return c.show(e, func() error { return c.explain(e) })
		},
	}
}

func (c *cli) explain(e api.Explain) error {
	move := ""
	var waiting []string
	if e.Move != nil {
		move = fmt.Sprintf("%s from %s to %s (%s)", e.Move.ID, e.Move.From, e.Move.To, e.Move.Phase)
		waiting = waitingFacts(e.Move.Waiting, time.Now())
	}
	lagging := ""
	if len(e.Lagging) > 0 {
		lagging = strings.Join(e.Lagging, ", ") + " may still answer as before the last change"
	}
	unseen := ""
	if len(e.Unseen) > 0 {
		unseen = strings.Join(e.Unseen, ", ") + " may still act as before the last change"
	}
	settled := ""
	if e.Scope != nil {
		settled = truth(e.Scope.Settled)
	}
	return c.facts(append([]string{"why", e.Why, "prefix", e.Prefix, "owner", e.Owner, addrOf(e.Route), e.Addr, "epoch", num(e.Epoch),
		"state", e.State, "target", e.Target, "lagging", lagging, "settled", settled, "unseen", unseen,
		"index", num(e.Index), "move", move, "progress", progressFact(e.Move)}, waiting...)...)
}
