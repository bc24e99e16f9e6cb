package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
)

// bootstrapID is the id of the token that cluster bootstrap-token makes.
const bootstrapID = "bootstrap"

func (c *cli) tokenCmd() *cobra.Command {
	return group("token", "Tokens: who may ask for what", `
A token says who asks: a viewer reads, a node speaks for one data node, an operator
declares and moves scopes, an admin does everything. The first one ends the admission
of everybody unknown: make it with cluster bootstrap-token.`, "  scope-registry token list",
		c.tokenCreateCmd(), c.tokenListCmd(), c.tokenRevokeCmd())
}

func (c *cli) tokenCreateCmd() *cobra.Command {
	var t client.NewToken
	var ttl time.Duration
	var out string
	cmd := &cobra.Command{
		Use: "create --role ROLE", Short: "Make a token, which is shown once",
		Long: `Make a token. It is drawn here and printed once, or written to a file that nobody
else may read; the servers get only a hash of it, and nobody can show it again. A token
of role node speaks for --node alone; one of role operator changes scopes under --prefix
only, if that is given.`,
		Example: "  scope-registry token create --role operator --prefix app: --ttl 720h --id ci --out ci.token",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if ttl < 0 {
				return invalid("--ttl %v is negative; leave it out for a token that does not expire", ttl)
			}
			if ttl > 0 {
				t.ExpiresMS = time.Now().Add(ttl).UnixMilli()
			}
			return c.makeToken(cmd.Context(), t, out)
		},
	}
	f := cmd.Flags()
	f.StringVar(&t.Role, "role", "", "viewer, node, operator or admin")
	f.StringVar(&t.Node, "node", "", "of role node: the one node it speaks for")
	f.StringVar(&t.Prefix, "prefix", "", "of role operator: the only prefix under which it changes scopes")
	f.DurationVar(&ttl, "ttl", 0, "how long it is good, by the clock here; 0 is for ever")
	f.StringVar(&t.ID, "id", "", "id, which stands in all records of what it did; drawn if empty")
	f.StringVar(&out, "out", "", "new file to write the token to, instead of printing it")
	_ = cmd.MarkFlagRequired("role")
	return c.reasonFlag(cmd)
}

func (c *cli) clusterBootstrapCmd() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use: "bootstrap-token", Short: "Make the first token, once",
		Long: `Make the first token, an admin's that does not expire. Until then everybody who reaches
a server may do everything; from then on nobody who shows neither a token nor a client
certificate. Where servers demand certificates this takes an admin's. It works once.`,
		Example: "  scope-registry cluster bootstrap-token --out admin.token",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.makeToken(cmd.Context(), client.NewToken{ID: bootstrapID, Role: "admin", First: true}, out)
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "new file to write the token to, instead of printing it")
	return cmd
}

// madeToken is the answer of the commands that make a token.
type madeToken struct {
	Index uint64 `json:"index"`
	ID    string `json:"id"`
	Token string `json:"token,omitempty"` // if it is in no file
	File  string `json:"file,omitempty"`
}

// makeToken makes a token and shows it, or puts it into a file. That is written before, as a token that is lost may be the
// only one there is.
func (c *cli) makeToken(ctx context.Context, t client.NewToken, out string) error {
	t, text, err := client.DrawToken(t)
	if err != nil {
		return err
	}
	if err := keepToken(out, text); err != nil {
		return err
	}
	cl := c.dial()
	defer cl.Close()
	a, err := cl.CreateToken(ctx, t)
	if err != nil {
		return c.unmade(err, out, text)
	}
	made := madeToken{Index: a.Index, ID: t.ID, File: out}
	if out == "" {
		made.Token = text
	}
	c.remark("made token %s (%s) at index %d; nobody can show it again", t.ID, t.Role, a.Index)
	return c.show(made, func() error {
		if out != "" {
			return c.printf("token %s is in %s\n", t.ID, out)
		}
		return c.printf("%s\n", text)
	})
}

// keepToken writes a new file that only its owner may read; "" is none.
func keepToken(name, text string) error {
	if name == "" {
		return nil
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return invalid("--out: %v; name a file that does not exist yet, in a folder that does", err)
	}
	_, err = f.WriteString(text + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(&api.Error{Code: api.Internal, Detail: fmt.Sprintf("--out %s cannot be written: %v", name, err)}, os.Remove(name))
	}
	return nil
}

// unmade is the end of a token that was perhaps not made. One that may have been is kept: it may be the only one.
func (c *cli) unmade(err error, out, text string) error {
	var e *api.Error
	if !errors.As(err, &e) || e.Code.Outcome() == api.NotApplied {
		if out != "" {
			err = errors.Join(err, os.Remove(out))
		}
		return err
	}
	if out == "" {
		if err := c.printf("%s\n", text); err != nil {
			return err
		}
		out = "standard output"
	}
	e.Detail += fmt.Sprintf(". The token is in %s and is good if it was made; look at it with: token list", out)
	return err
}

func (c *cli) tokenListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the tokens that are not revoked",
		Long:    "List the tokens that are not revoked, by id: what each is for, until when it is good,\nand who made it when. Nobody can show the tokens themselves again.",
		Example: "  scope-registry token list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl := c.dial()
			defer cl.Close()
			all, err := cl.Tokens(cmd.Context())
			if err != nil {
				return err
			}
			return list(c, all, all.Tokens, "ID ROLE NODE PREFIX EXPIRES CREATED BY", func(t api.Token) []string {
				return []string{t.ID, t.Role, t.Node, t.Prefix, expiry(t), at(t.CreatedMS), t.CreatedBy}
			})
		},
	}
}

func expiry(t api.Token) string {
	switch {
	case t.ExpiresMS == 0:
		return "never"
	case t.Expired:
		return "expired"
	}
	return at(t.ExpiresMS)
}

func (c *cli) tokenRevokeCmd() *cobra.Command {
	return c.reasonFlag(&cobra.Command{
		Use: "revoke ID", Short: "Revoke a token",
		Long: `Revoke a token: who shows it is refused from then on, and what they are doing ends,
watches and backups too. The last token of an admin that does not expire stays
(WRONG_PHASE, exit 4), unless you come with an admin's certificate.`,
		Example: "  scope-registry token revoke ci --reason 'it was in a log'",
		RunE: func(cmd *cobra.Command, args []string) error {
			cl := c.dial()
			defer cl.Close()
			a, err := cl.RevokeToken(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.applied("revoked token "+args[0], a)
		},
	})
}
