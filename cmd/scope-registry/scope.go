package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

func (c *cli) scopeCmd() *cobra.Command {
	return group("scope", "Declare, look at and retire scopes", `
A scope is a prefix of keys with the one node that may write them, at an epoch
that rises with every change of owner.`, "  scope-registry scope list",
		c.scopeDeclareCmd(), c.scopeGetCmd(), c.scopeListCmd(), c.scopeRetireCmd(), c.scopePlanCmd(), c.scopeApplyCmd(), c.scopeForceCmd(), c.scopeReleaseCmd())
}

// fencedIdentity is what --source-fenced-identity is for.
const fencedIdentity = "identity of the data that --source-fenced is about (node get shows it); empty if the node never had a session"

func (c *cli) scopeDeclareCmd() *cobra.Command {
	var d api.Declare
	var epoch uint64
	cmd := &cobra.Command{
		Use: "declare PREFIX --writer NODE", Short: "Declare a scope, or change its options",
		Long: `Declare a scope, or change the options of one. The writer is the node that owns
it. Another writer for a declared scope is refused (EXISTS, exit 4): an owner
changes only by a move. --source-fenced is needed for keys of a retired scope
whose last owner may not know of the retire, unless that owner is the writer.`,
		Example: "  scope-registry scope declare app:billing: --writer embed-billing-1 --fallback server-eu-1",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := parsePrefix(args[0])
			if err != nil {
				return err
			}
			cl := c.dial()
			defer cl.Close()
			a, err := cl.Declare(cmd.Context(), p, d, epoch)
			if err != nil {
				return err
			}
			return c.applied("declared "+p.Text(), a)
		},
	}
	f := cmd.Flags()
	f.StringVar(&d.Writer, "writer", "", "node that writes the scope")
	f.StringVar(&d.Fallback, "fallback", "", "node that takes over while the writer is down")
	f.StringVar(&d.Failover, "failover", "", "auto (default) or manual")
	f.StringVar(&d.Lease, "lease", "", "auto (default), always or never")
	f.StringVar(&d.SourceFenced, "source-fenced", "", "your word that this node, the last owner of a retired scope, is off")
	f.StringVar(&d.SourceFencedIdentity, "source-fenced-identity", "", fencedIdentity)
	f.Uint64Var(&epoch, "if-epoch", 0, "only if the scope has this epoch")
	_ = cmd.MarkFlagRequired("writer")
	return c.reasonFlag(cmd)
}

func (c *cli) scopeGetCmd() *cobra.Command {
	history := false
	cmd := &cobra.Command{
		Use: "get PREFIX", Short: "Show one scope",
		Long: `Show one scope: who writes it and who owns it now, at which epoch, the move that
runs, and the nodes that still have to delete an old copy. It is settled once
every live session has seen its last change. Where it needs a lease it is armed
once its owner is known to have seen that; only then does a fallback take over.
--history adds who asked for what about this prefix, and when, as far back as that
is kept; of a retired scope cluster audit --prefix shows it.`,
		Example: "  scope-registry scope get app:billing: --history",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := parsePrefix(args[0])
			if err != nil {
				return err
			}
			cl := c.dial()
			defer cl.Close()
			s, err := cl.Scope(cmd.Context(), p)
			if err != nil {
				return err
			}
			if history {
				return c.scopeHistory(cmd.Context(), cl, s, p)
			}
			return c.show(s, func() error { return c.scopeFacts(s) })
		},
	}
	cmd.Flags().BoolVar(&history, "history", false, "also who asked for what about it")
	return cmd
}

// scopeHistory shows a scope with its audit records.
func (c *cli) scopeHistory(ctx context.Context, cl *client.Client, s api.Scope, p scope.Prefix) error {
	audit, err := allAudit(ctx, cl, client.AuditFilter{Prefix: &p})
	if err != nil {
		return err
	}
	return c.show(struct {
		api.Scope
		History []api.AuditRecord `json:"history"`
	}{s, audit.Records}, func() error {
		if err := errors.Join(c.scopeFacts(s), c.printf("\n")); err != nil {
			return err
		}
		return c.auditTable(audit.Records)
	})
}

func (c *cli) scopeFacts(s api.Scope) error {
	pairs := []string{"prefix", s.Prefix, "writer", s.Writer, "fallback", dash(s.Fallback), "owner", s.Owner, "owner addr", s.OwnerAddr,
		"epoch", num(s.Epoch), "state", s.State, "target", s.Target, "move", s.Move, "failover", s.Failover, "lease", s.Lease, "armed", armed(s),
		"changed index", num(s.Changed), "settled", truth(s.Settled)}
	for _, cu := range s.Cleanups {
		pairs = append(pairs, "cleanup", fmt.Sprintf("pending on %s, epoch %d, move %s", cu.Node, cu.Epoch, dash(cu.Move)))
	}
	return c.facts(pairs...)
}

// armed is whether the owner is known to have seen that it needs a lease; "" for
// a scope that needs none, where it means nothing.
func armed(s api.Scope) string {
	lease, err := scope.ParseLease(s.Lease)
	failover, err2 := scope.ParseFailover(s.Failover)
	if err == nil && err2 == nil && !(scope.Scope{Fallback: scope.NodeID(s.Fallback), Lease: lease, Failover: failover}).NeedsLease() {
		return ""
	}
	return yesNo(s.Armed)
}

func (c *cli) scopeListCmd() *cobra.Command {
	var under, node string
	var limit int
	var noFallback bool
	cmd := &cobra.Command{
		Use: "list", Short: "List scopes by prefix",
		Long: `List scopes in the order of their prefixes. --under, --node and --no-fallback
narrow it down. With -o jsonl each scope is one line.`,
		Example: "  scope-registry scope list --under app: --no-fallback",
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := parsePrefix(under)
			if err != nil {
				return err
			}
			if limit < 0 {
				return invalid("--limit %d is negative; give 0 for all", limit)
			}
			cl := c.dial()
			defer cl.Close()
			all, err := allScopes(cmd, cl, client.ListOptions{Under: p, NoFallback: noFallback, Node: node}, limit)
			if err != nil {
				return err
			}
			return list(c, all, all.Scopes, "PREFIX OWNER WRITER FALLBACK EPOCH STATE MOVE", func(s api.Scope) []string {
				return []string{s.Prefix, s.Owner, s.Writer, s.Fallback, num(s.Epoch), s.State, s.Move}
			})
		},
	}
	cmd.Flags().StringVar(&under, "under", "", "only scopes whose prefix begins with this")
	cmd.Flags().StringVar(&node, "node", "", "only scopes of this node")
	cmd.Flags().IntVar(&limit, "limit", 0, "at most this many; 0 is all")
	cmd.Flags().BoolVar(&noFallback, "no-fallback", false, "only scopes without a fallback")
	return cmd
}

// allScopes pages through the list.
func allScopes(cmd *cobra.Command, cl *client.Client, o client.ListOptions, limit int) (client.Scopes, error) {
	all := client.Scopes{Scopes: []api.Scope{}}
	for {
		if limit > 0 {
			o.Limit = limit - len(all.Scopes)
		}
		page, err := cl.Scopes(cmd.Context(), o)
		if err != nil {
			return all, err
		}
		all.Index, all.Next = page.Index, page.Next
		all.Scopes = append(all.Scopes, page.Scopes...)
		if page.Next == "" || len(page.Scopes) == 0 || limit > 0 && len(all.Scopes) >= limit {
			return all, nil
		}
		if o.After, err = parsePrefix(page.Next); err != nil {
			return all, err
		}
	}
}

func (c *cli) scopeRetireCmd() *cobra.Command {
	var off client.Fenced
	var epoch uint64
	cmd := &cobra.Command{
		Use: "retire PREFIX", Short: "Remove a scope",
		Long: `Remove a scope. While a move of it runs, or a node still has to delete an old
copy, that is refused (exit 4). Its last owner is remembered: another writer is
declared for these keys only with --source-fenced, your word that it is off.`,
		Example: "  scope-registry scope retire app:billing: --source-fenced embed-billing-1",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := parsePrefix(args[0])
			if err != nil {
				return err
			}
			cl := c.dial()
			defer cl.Close()
			a, err := cl.Retire(cmd.Context(), p, off, epoch)
			if err != nil {
				return err
			}
			return c.applied("retired "+p.Text(), a)
		},
	}
	cmd.Flags().StringVar(&off.Node, "source-fenced", "", "your word that this node, the owner, is off")
	cmd.Flags().StringVar(&off.Identity, "source-fenced-identity", "", fencedIdentity)
	cmd.Flags().Uint64Var(&epoch, "if-epoch", 0, "only if the scope has this epoch")
	return c.reasonFlag(cmd)
}

func (c *cli) scopeForceCmd() *cobra.Command {
	var f api.Force
	cmd := &cobra.Command{
		Use:   "force PREFIX --to NODE --epoch N --accept-loss --source-fenced NODE",
		Short: "Give a scope to another node without its owner, losing what only the owner has",
		Long: `Give a scope to another node although its owner is gone. What only the old owner
has is lost, which --accept-loss says you know. --source-fenced is your word that
the old owner is off: if it is not, two nodes write the same keys. It is not needed
for an armed scope whose owner's session has ended; of an owner that ever had a
session it names the data too, with --source-fenced-identity.`,
		Example: "  scope-registry scope force app:billing: --to server-eu-1 --epoch 4 --accept-loss --source-fenced embed-billing-1 --reason 'disk lost'",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := parsePrefix(args[0])
			if err != nil {
				return err
			}
			f.Prefix = p.Text()
			cl := c.dial()
			defer cl.Close()
			a, err := cl.Force(cmd.Context(), f)
			if err != nil {
				return err
			}
			return c.applied("forced "+p.Text()+" to "+f.To, a)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.To, "to", "", "node that becomes the owner")
	fl.Uint64Var(&f.ExpectedEpoch, "epoch", 0, "the epoch the scope has now")
	fl.BoolVar(&f.AcceptLoss, "accept-loss", false, "what only the old owner has is lost")
	fl.StringVar(&f.SourceFenced, "source-fenced", "", "your word that this node, the owner, is off")
	fl.StringVar(&f.SourceFencedIdentity, "source-fenced-identity", "", fencedIdentity)
	fl.StringVar(&f.Reason, "reason", "", "why, kept with the move")
	for _, name := range []string{"to", "epoch"} {
		_ = cmd.MarkFlagRequired(name)
	}
	return cmd
}
