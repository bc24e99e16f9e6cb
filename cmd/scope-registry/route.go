package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/scope-registry/scope-registry/client"
)

func (c *cli) routeCmd() *cobra.Command {
	var o client.RouteOptions
	cmd := &cobra.Command{
		Use: "route KEY", Short: "Say who writes a key", Args: cobra.ExactArgs(1),
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
				return c.facts("reply", r.Reply, "verdict", r.Verdict, "prefix", r.Prefix, "owner", r.Owner, "addr", r.Addr,
					"epoch", num(r.Epoch), "state", r.State, "target", r.Target, "index", num(r.Index))
			})
		},
	}
	cmd.Flags().StringVar(&o.As, "as", "", "node that asks: it gets the verdict a store answers its clients")
	cmd.Flags().StringVar(&o.Consistency, "consistency", "", "local or linearizable")
	cmd.Flags().Uint64Var(&o.MinIndex, "min-index", 0, "wait until the server has applied this index")
	return cmd
}

func (c *cli) explainCmd() *cobra.Command {
	return &cobra.Command{
		Use: "explain KEY", Short: "Say why a key routes as it does", Args: cobra.ExactArgs(1),
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
			return c.show(e, func() error {
				move := ""
				var waiting []string
				if e.Move != nil {
					move = e.Move.ID + " (" + e.Move.Phase + ")"
					waiting = waitingFacts(e.Move.Waiting)
				}
				return c.facts(append([]string{"why", e.Why, "prefix", e.Prefix, "owner", e.Owner, "addr", e.Addr, "epoch", num(e.Epoch),
					"state", e.State, "move", move, "lagging", strings.Join(e.Lagging, ", "), "index", num(e.Index)}, waiting...)...)
			})
		},
	}
}
