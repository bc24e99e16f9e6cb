package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/certs"
)

const (
	// defaultCluster is the name in the certificates of those who have one cluster.
	defaultCluster = "default"
	// defaultCertsDir is where certificates are kept, seen from where the command is given.
	defaultCertsDir = "certs"
)

// certInfo is a certificate as it is printed.
type certInfo struct {
	Cluster string   `json:"cluster"`
	Role    string   `json:"role"`
	ID      string   `json:"id,omitempty"`
	Hosts   []string `json:"hosts,omitempty"`
	Until   string   `json:"until"`
	Due     bool     `json:"due"` // renew would issue it anew
	Cert    string   `json:"cert"`
	Key     string   `json:"key"`
}

type certList struct {
	CA    string     `json:"ca"`
	Certs []certInfo `json:"certs"`
}

func infoOf(one certs.Issued) certInfo {
	return certInfo{Cluster: one.Cluster, Role: one.Who.Role.String(), ID: one.Who.ID, Hosts: one.Hosts,
		Until: one.Until.UTC().Format(time.RFC3339), Due: one.Due, Cert: one.Cert, Key: one.Key}
}

func (c *cli) certsCmd() *cobra.Command {
	return group("certs", "Certificates for servers, nodes and people", `
Certificates for servers, nodes and people, for those who have no authority of their
own. They are made and kept in one directory: the authority in ca.pem and ca.key, the
others as ROLE-ID.pem and ROLE-ID.key. No command here asks a server. ca.pem goes to
everybody, each certificate with its key to its holder, and ca.key nowhere: whoever has
it can be anybody.`, "  scope-registry certs init --servers s1=db1.example.net,s2=db2.example.net,s3=db3.example.net",
		c.certsInitCmd(), c.certsIssueCmd(), c.certsRenewCmd(), c.certsListCmd())
}

// certsDir adds the flag that all of them have.
func certsDir(cmd *cobra.Command) *string {
	return cmd.Flags().String("dir", defaultCertsDir, "directory with the authority and all certificates")
}

func (c *cli) certsInitCmd() *cobra.Command {
	var cluster string
	var servers []string
	cmd := &cobra.Command{
		Use: "init", Short: "Make an authority, an admin's certificate, and those of servers",
		Long: `Make an authority that signs for this cluster alone, a certificate for an admin, and
one for each of --servers. The authority is good for ten years, a server's certificate
for 90 days, an admin's for 7: renew them in time. An authority that is there is never
replaced.`,
		Example: "  scope-registry certs init --servers s1=db1.example.net/10.0.0.1,s2=db2.example.net,s3=db3.example.net",
	}
	dir := certsDir(cmd)
	cmd.Flags().StringVar(&cluster, "cluster", defaultCluster, "name of the cluster: 1 to 63 of a-z, 0-9 and -")
	cmd.Flags().StringSliceVar(&servers, "servers", nil, "servers, as id=host/host/…, where a host is a name or an IP address at which others reach it; localhost is always one")
	cmd.RunE = func(*cobra.Command, []string) error {
		wishes, err := serverWishes(servers)
		if err != nil {
			return err
		}
		now, d := time.Now(), certs.Dir(*dir)
		a, err := d.Init(cluster, now)
		if err != nil {
			return invalid("%v", err)
		}
		wishes = append(wishes, certs.Wish{Who: access.Who{Role: access.Admin}})
		var made []certs.Issued
		for _, w := range wishes {
			one, err := d.Issue(a, w, now, false)
			if err != nil {
				return invalid("%v", err)
			}
			made = append(made, one)
		}
		c.remark("authority of cluster %s until %s: %s; its key stays here and goes to no server", cluster, a.Expires().UTC().Format(time.RFC3339), d.CA())
		return c.certificates(d, made)
	}
	return cmd
}

// serverWishes reads --servers, before anything is written.
func serverWishes(servers []string) ([]certs.Wish, error) {
	var out []certs.Wish
	seen := map[string]bool{}
	for _, item := range servers {
		id, hosts, _ := strings.Cut(item, "=")
		if err := access.CheckID(id); err != nil {
			return nil, invalid("--servers has %q: %v; write id=host/host", item, err)
		}
		if seen[id] {
			return nil, invalid("--servers has %q twice; give each server its own id", id)
		}
		seen[id] = true
		w := certs.Wish{Who: access.Who{Role: access.Server, ID: id}}
		if hosts != "" {
			w.Hosts = strings.Split(hosts, "/")
		}
		if err := w.Check(); err != nil {
			return nil, invalid("--servers has %q: %v", item, err)
		}
		out = append(out, w)
	}
	return out, nil
}

func (c *cli) certsIssueCmd() *cobra.Command {
	var hosts []string
	var ttl time.Duration
	var cluster string
	var force bool
	cmd := &cobra.Command{
		Use: "issue ROLE [ID]", Short: "Make one certificate and its key",
		Long: `Make one certificate and its key. ROLE is server or node, with its ID, or viewer,
operator or admin, whose ID is a name that is kept with what they do. It is good for 90
days for a server, 30 for a node and 7 for others. The files are readable by you alone.`,
		Example: "  scope-registry certs issue server s4 --host db4.example.net,10.0.0.4\n  scope-registry certs issue operator alice --ttl 8h",
	}
	dir := certsDir(cmd)
	f := cmd.Flags()
	f.StringSliceVar(&hosts, "host", nil, "name or IP address at which others reach a server or node; localhost is always one of a server")
	f.DurationVar(&ttl, "ttl", 0, "how long it is good for; 0 is as long as the role has")
	f.StringVar(&cluster, "cluster", "", "name of the cluster, for an authority that was made elsewhere and does not say it")
	f.BoolVar(&force, "force", false, "replace a certificate and its key")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		role, err := access.ParseRole(args[0])
		if err != nil {
			return invalid("%v", err)
		}
		w := certs.Wish{Who: access.Who{Role: role}, Hosts: hosts, Life: ttl}
		if len(args) > 1 {
			w.Who.ID = args[1]
		}
		if err := w.Check(); err != nil {
			return invalid("%v", err)
		}
		d := certs.Dir(*dir)
		a, err := d.Open(cluster)
		if err != nil {
			return invalid("%v", err)
		}
		one, err := d.Issue(a, w, time.Now(), force)
		if err != nil {
			return invalid("%v", err)
		}
		return c.certificates(d, []certs.Issued{one})
	}
	return cmd
}

func (c *cli) certsRenewCmd() *cobra.Command {
	var all bool
	var cluster string
	cmd := &cobra.Command{
		Use: "renew", Short: "Issue anew what has less than a third of its life left",
		Long: `Issue anew, to the same holders and for as long, the certificates that have less than
a third of their life left, or whose key is not theirs. They get new keys. Bring the
files to their holders: a program reads its own anew while it runs.`,
		Example: "  scope-registry certs renew --dir certs",
	}
	dir := certsDir(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "also those that have longer to go, as after a change of the authority")
	cmd.Flags().StringVar(&cluster, "cluster", "", "name of the cluster, as for certs issue")
	cmd.RunE = func(*cobra.Command, []string) error {
		d := certs.Dir(*dir)
		a, err := d.Open(cluster)
		if err != nil {
			return invalid("%v", err)
		}
		made, err := d.Renew(a, time.Now(), all)
		if err != nil {
			return invalid("%v", err)
		}
		if len(made) == 0 {
			c.remark("nothing is due in %s", d)
		}
		return c.certificates(d, made)
	}
	return cmd
}

func (c *cli) certsListCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "Show certificates and how long they are good for",
		Long:    "Show the certificates in a directory, whose they are, and how long they are good for.",
		Example: "  scope-registry certs list --dir certs",
	}
	dir := certsDir(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		d := certs.Dir(*dir)
		held, err := d.List(time.Now())
		if err != nil {
			return invalid("%v; make some with: scope-registry certs init --dir %s", err, d)
		}
		var due []string
		for _, one := range held {
			if one.Due {
				due = append(due, fmt.Sprintf("certificate %s has less than a third of its life left, or its key is not its own; renew it with: scope-registry certs renew --dir %s", one.Cert, d))
			}
		}
		c.warn(due)
		return c.certificates(d, held)
	}
	return cmd
}

// certificates prints what was made or found.
func (c *cli) certificates(d certs.Dir, held []certs.Issued) error {
	out := certList{CA: d.CA(), Certs: make([]certInfo, 0, len(held))}
	for _, one := range held {
		out.Certs = append(out.Certs, infoOf(one))
	}
	return list(c, out, out.Certs, "ROLE ID UNTIL HOSTS CERT", func(i certInfo) []string {
		return []string{i.Role, i.ID, i.Until, strings.Join(i.Hosts, ","), i.Cert}
	})
}
