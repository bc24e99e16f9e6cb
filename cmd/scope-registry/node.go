package main

import (
	"github.com/spf13/cobra"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
)

func (c *cli) nodeCmd() *cobra.Command {
	set := &cobra.Command{
		Use: "set ID HOST:PORT", Short: "Add a data node, or change its address",
		Long: `Add a data node, or change its address. The address is what clients are sent to
by MISDIRECTED and QUIESCED.`,
		Example: "  scope-registry node set embed-billing-1 10.0.0.1:6004",
		RunE: func(cmd *cobra.Command, args []string) error {
			cl := c.dial()
			defer cl.Close()
			a, err := cl.SetNode(cmd.Context(), api.Node{ID: args[0], Addr: args[1]})
			if err != nil {
				return err
			}
			return c.applied("set node "+args[0], a)
		},
	}
	return group("node", "Data nodes, their addresses and sessions", `
Data nodes are what scopes are written by: an id, and the address clients are sent
to. A session is the right of one process to speak for its node, and lasts as long
as that process renews it.`, "  scope-registry node list",
		c.reasonFlag(set), c.nodeListCmd(), c.nodeGetCmd(), c.nodeRemoveCmd(), c.nodeSessionsCmd(), c.nodeFenceCmd())
}

func (c *cli) nodeRemoveCmd() *cobra.Command {
	var off client.Fenced
	cmd := &cobra.Command{
		Use: "remove ID", Short: "Remove a data node that nothing names",
		Long: `Remove a data node. While a scope, a move, a retired scope or a pending cleanup
names it, that is refused (NODE_IN_USE, exit 4). While the cluster holds since a
restore, a node that has not opened a session in the new incarnation is removed
only with --source-fenced, your word that it is off: the backup does not know what
it was given later, and removing the last such node lets the hold end.`,
		Example: "  scope-registry node remove embed-billing-1",
		RunE: func(cmd *cobra.Command, args []string) error {
			if off.Node != "" && off.Node != args[0] {
				return invalid("--source-fenced %s is not the node that is removed, %s; it must be the same", off.Node, args[0])
			}
			cl := c.dial()
			defer cl.Close()
			a, err := cl.RemoveFencedNode(cmd.Context(), args[0], off)
			if err != nil {
				return err
			}
			return c.applied("removed node "+args[0], a)
		},
	}
	cmd.Flags().StringVar(&off.Node, "source-fenced", "", "your word that this node, ID again, is off")
	cmd.Flags().StringVar(&off.Identity, "source-fenced-identity", "", fencedIdentity)
	return c.reasonFlag(cmd)
}
