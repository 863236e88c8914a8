// Command vcenter is a vCenter to test against: govmomi's simulator, which knows no Instant Clone, with Instant
// Clone, the freeze, guest operations and guests that live.
//
// It says where it is in one line of JSON on standard output when it is ready, and serves until it is told to end.
// A guest is a goroutine: it reads its guestinfo, answers in guestinfo, plays the game's HTTP server on an address of
// 127.0.0.0/8, and stands in Consul as a child's agent would put it there.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

type options struct {
	hosts     int
	esx       bool
	frozen    bool
	address   string
	control   string
	sdkFile   int
	ctrlFile  int
	state     string
	user      string
	password  string
	guestUser string
	guestPass string
	consul    string
	consulDC  string
	service   string
	port      int
	ready     string
}

func readOptions() options {
	var o options
	flag.IntVar(&o.hosts, "hosts", 4, "ESXi hosts in the cluster, each with a parent")
	flag.BoolVar(&o.esx, "esx", false, "be a single ESXi host and no vCenter")
	flag.BoolVar(&o.frozen, "frozen", true, "parents are frozen when it starts")
	flag.StringVar(&o.address, "listen", "127.0.0.1:0", "address of the vSphere API")
	flag.StringVar(&o.control, "control", "127.0.0.1:0", "address of the control API")
	flag.IntVar(&o.sdkFile, "listen-fd", -1, "descriptor of a listening socket for the vSphere API, instead of -listen")
	flag.IntVar(&o.ctrlFile, "control-fd", -1, "descriptor of a listening socket for the control API, instead of -control")
	flag.StringVar(&o.state, "state", "", "directory for certificate and datastore; made if absent")
	flag.StringVar(&o.user, "user", "administrator@vsphere.local", "who may do everything")
	flag.StringVar(&o.password, "password-file", "", "file with that user's password; \"forkyard\" without it")
	flag.StringVar(&o.guestUser, "guest-user", "root", "who may run programs in a guest")
	flag.StringVar(&o.guestPass, "guest-password-file", "", "file with that user's password; \"guest\" without it")
	flag.StringVar(&o.consul, "consul", "", "URL of a Consul agent's HTTP API; guests register there")
	flag.StringVar(&o.consulDC, "datacenter", "dc1", "Consul datacenter")
	flag.StringVar(&o.service, "service", "game", "what guests serve and parents are named after")
	flag.IntVar(&o.port, "port", 8080, "port that guests serve at")
	flag.StringVar(&o.ready, "ready", "", "file that gets the line that is printed when all is ready")
	flag.Parse()
	return o
}

func main() {
	log.SetFlags(log.LstdFlags | log.Lmicroseconds)
	if err := run(readOptions()); err != nil {
		fmt.Fprintln(os.Stderr, "vcenter:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	var err error
	if o.password, err = readSecret(o.password, "forkyard"); err != nil {
		return err
	}
	if o.guestPass, err = readSecret(o.guestPass, "guest"); err != nil {
		return err
	}
	if o.state == "" {
		if o.state, err = os.MkdirTemp("", "vcenter-"); err != nil {
			return err
		}
		defer os.RemoveAll(o.state)
	}
	if err = os.MkdirAll(o.state, 0o700); err != nil {
		return err
	}
	v, err := newVCenter(o)
	if err != nil {
		return err
	}
	defer v.close()
	sdk, err := listen(o.sdkFile, o.address)
	if err != nil {
		return err
	}
	control, err := listen(o.ctrlFile, o.control)
	if err != nil {
		return err
	}
	front, err := newFront(sdk, v, o.state)
	if err != nil {
		return err
	}
	front.serve()
	defer front.close()
	defer serveControl(control, v, front).Close()
	ready := front.describe()
	ready["control"] = "http://" + control.Addr().String()
	ready["user"] = o.user
	ready["guest_user"] = o.guestUser
	ready["pid"] = os.Getpid()
	if err = announce(ready, o.ready); err != nil {
		return err
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	<-end
	return nil
}

func announce(ready map[string]any, path string) error {
	line, err := json.Marshal(ready)
	if err != nil {
		return err
	}
	fmt.Println(string(line))
	if path == "" {
		return nil
	}
	if err = os.WriteFile(path+".new", line, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func readSecret(path, otherwise string) (string, error) {
	if path == "" {
		return otherwise, nil
	}
	text, err := os.ReadFile(path)
	return strings.TrimSpace(string(text)), err
}

// listen uses a socket that whoever started us opened, perhaps in another network namespace, or opens one.
func listen(descriptor int, address string) (net.Listener, error) {
	if descriptor < 0 {
		return net.Listen("tcp", address)
	}
	file := os.NewFile(uintptr(descriptor), "listener")
	defer file.Close()
	return net.FileListener(file)
}
