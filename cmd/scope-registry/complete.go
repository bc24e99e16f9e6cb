package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/scope"
)

const (
	// completeTimeout is how long the shell waits for a completion: longer feels stuck.
	completeTimeout = 700 * time.Millisecond
	// completeMost bounds what is offered at once: nobody reads more.
	completeMost = 100
)

// offer asks the servers for words that may stand in a place. An error offers nothing.
type offer func(ctx context.Context, cl *client.Client, begun string) ([]string, error)

// complete makes the shell complete a command's words and flags.
func (c *cli) complete(cmd *cobra.Command, words []string) {
	if cmd.HasSubCommands() || cmd.HasParent() && cmd.Parent().Name() == "completion" {
		return
	}
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) >= len(words) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		kind := words[len(args)]
		if kind == "FILE" {
			return nil, cobra.ShellCompDirectiveDefault
		}
		if kind == "ID" {
			kind = cmd.Parent().Name() + " " + cmd.Name()
		}
		return c.ask(offers()[kind], begun, kind == "KEY")
	}
	for name, values := range enums() {
		if cmd.Flag(name) != nil {
			_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
		}
	}
	for name, kind := range map[string]string{"writer": "NODE", "fallback": "NODE", "source-fenced": "NODE", "from": "NODE", "to": "NODE", "as": "NODE",
		"node": "NODE", "under": "PREFIX", "prefix": "PREFIX", "of-key": "KEY"} {
		if cmd.Name() == "transfer" {
			kind = "SERVER"
		}
		if f := cmd.Flag(name); f != nil && f.Value.Type() == "string" {
			_ = cmd.RegisterFlagCompletionFunc(name, func(_ *cobra.Command, _ []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
				return c.ask(offers()[kind], begun, kind == "KEY")
			})
		}
	}
}

// enums are the flags that take one of a few words.
func enums() map[string][]string {
	return map[string][]string{
		"output": {"table", "json", "jsonl"}, "consistency": {"local", "linearizable"}, "failover": {"auto", "manual"},
		"lease": {"auto", "always", "never"}, "mode": {"agent", "assisted"}, "state": {"running", "finished", "all"},
		"role":   {"viewer", "node", "operator", "admin"},
		"timing": {"fast", "default", "wan"}, "log-level": {"debug", "info", "warn", "error"},
	}
}

// ask runs an offer; nil offers nothing.
func (c *cli) ask(o offer, begun string, more bool) ([]cobra.Completion, cobra.ShellCompDirective) {
	directive := cobra.ShellCompDirectiveNoFileComp
	if more {
		directive |= cobra.ShellCompDirectiveNoSpace
	}
	if o == nil {
		return nil, directive
	}
	ctx, cancel := context.WithTimeout(context.Background(), completeTimeout)
	defer cancel()
	cl := c.dialFor(completeTimeout)
	defer cl.Close()
	words, _ := o(ctx, cl, begun) // the shell shows no errors
	words = slices.DeleteFunc(words, func(w string) bool { return !strings.HasPrefix(w, begun) })
	return words[:min(len(words), completeMost)], directive
}

// offers are what may stand in a place, by the word of the usage line or, for
// an ID, by the command.
func offers() map[string]offer {
	return map[string]offer{
		"ROLE": offerRoles, "PREFIX": offerPrefixes, "KEY": offerPrefixes, "NODE": offerNodes, "SERVER": offerServers,
		"node set": offerNodes, "node remove": offerNodes, "node get": offerNodes, "node fence": offerNodes,
		"token revoke": offerTokens,
		"move status":  offerMoves(""), "move wait": offerMoves("running"), "move abort": offerMoves("running"), "move quiesce": offerMoves("running"),
		"move shipped": offerMoves("running"), "move ready": offerMoves("running"), "move cleaned": offerMoves("finished"),
	}
}

// offerRoles are those that a certificate can have.
func offerRoles(context.Context, *client.Client, string) ([]string, error) {
	return []string{"admin", "node", "operator", "server", "viewer"}, nil
}

func offerPrefixes(ctx context.Context, cl *client.Client, begun string) ([]string, error) {
	under, err := scope.ParsePrefix(begun)
	if err != nil {
		return nil, err
	}
	page, err := cl.Scopes(ctx, client.ListOptions{Under: under, Limit: completeMost})
	var out []string
	for _, s := range page.Scopes {
		out = append(out, s.Prefix)
	}
	return out, err
}

func offerNodes(ctx context.Context, cl *client.Client, _ string) ([]string, error) {
	all, err := cl.Nodes(ctx)
	var out []string
	for _, n := range all.Nodes {
		out = append(out, n.ID)
	}
	return out, err
}

func offerServers(ctx context.Context, cl *client.Client, _ string) ([]string, error) {
	all, err := cl.Cluster(ctx, false)
	var out []string
	for _, m := range all.Members {
		out = append(out, m.ID)
	}
	return out, err
}

func offerTokens(ctx context.Context, cl *client.Client, _ string) ([]string, error) {
	all, err := cl.Tokens(ctx)
	var out []string
	for _, t := range all.Tokens {
		out = append(out, t.ID)
	}
	return out, err
}

func offerMoves(state string) offer {
	return func(ctx context.Context, cl *client.Client, _ string) ([]string, error) {
		page, err := cl.Moves(ctx, client.MoveFilter{State: state, Limit: completeMost})
		var out []string
		for _, m := range page.Moves {
			if state != "finished" || m.Cleanup != "" {
				out = append(out, m.ID)
			}
		}
		return out, err
	}
}
