package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// controls is what a test sets from outside; it is no part of vSphere.
type controls struct {
	v     *vcenter
	front *front
}

func serveControl(listener net.Listener, v *vcenter, front *front) *http.Server {
	c := &controls{v: v, front: front}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /state", c.state)
	mux.HandleFunc("GET /rules", c.rules)
	mux.HandleFunc("PUT /rules", c.setRules)
	mux.HandleFunc("GET /calls", c.calls)
	mux.HandleFunc("DELETE /calls", c.calls)
	mux.HandleFunc("PUT /people", c.setPerson)
	mux.HandleFunc("POST /restart", c.restart)
	mux.HandleFunc("POST /sessions/expire", c.expire)
	mux.HandleFunc("PUT /hosts/{name}", c.setHost)
	mux.HandleFunc("PUT /datastore", c.setDatastore)
	mux.HandleFunc("PUT /machines/{name}", c.setMachine)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }()
	return server
}

func (c *controls) state(w http.ResponseWriter, _ *http.Request) {
	ctx := c.v.context()
	machines := []map[string]any{}
	for _, vm := range c.v.machines() {
		ctx.WithLock(vm, func() {
			nic := findNIC(vm)
			machines = append(machines, map[string]any{
				"id": vm.Self.Value, "name": vm.Name, "host": c.v.hostNameOf(vm.Self), "uuid": vm.Config.Uuid,
				"power": vm.Runtime.PowerState, "frozen": isFrozen(vm), "network": c.v.networkOf(vm),
				"connected": nic != nil && nic.Connectable != nil && nic.Connectable.Connected,
			})
		})
	}
	writeJSON(w, http.StatusOK, map[string]any{"mode": c.front.now(), "machines": machines})
}

func (c *controls) rules(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, c.v.rules.get())
}

func (c *controls) setRules(w http.ResponseWriter, r *http.Request) {
	var fresh ruleSet
	if err := read(r, &fresh); err != nil {
		refuse(w, err)
		return
	}
	if err := c.v.rules.replace(fresh); err != nil {
		refuse(w, err)
		return
	}
	writeJSON(w, http.StatusOK, c.v.rules.get())
}

func (c *controls) calls(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, http.StatusOK, c.v.calls.take(r.Method == http.MethodDelete))
}

func (c *controls) setPerson(w http.ResponseWriter, r *http.Request) {
	var one person
	if err := read(r, &one); err != nil {
		refuse(w, err)
		return
	}
	c.v.people.set(one)
	writeJSON(w, http.StatusOK, map[string]any{"name": one.Name})
}

func (c *controls) restart(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		Seconds float64 `json:"seconds"`
	}
	if err := read(r, &asked); err != nil {
		refuse(w, err)
		return
	}
	// Before the answer: whoever waits for the end of a restart must not see the time before it.
	c.front.set(refusing)
	go c.front.restart(seconds(asked.Seconds))
	writeJSON(w, http.StatusOK, map[string]any{"seconds": asked.Seconds})
}

func (c *controls) expire(w http.ResponseWriter, _ *http.Request) {
	c.v.endSessions()
	writeJSON(w, http.StatusOK, map[string]any{})
}

func (c *controls) setHost(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		Maintenance *bool  `json:"maintenance"`
		Entering    *bool  `json:"entering_maintenance"`
		Connected   *bool  `json:"connected"`
		MemoryBytes *int64 `json:"memory_bytes"`
	}
	if err := read(r, &asked); err != nil {
		refuse(w, err)
		return
	}
	found := []string{}
	for _, ref := range c.v.world.hosts {
		host := c.v.registry.Get(ref).(*simulator.HostSystem)
		if !matches(r.PathValue("name"), host.Name) {
			continue
		}
		found = append(found, host.Name)
		ctx := c.v.context()
		ctx.WithLock(host, func() {
			var changes []types.PropertyChange
			if asked.Maintenance != nil {
				changes = append(changes, types.PropertyChange{Name: "runtime.inMaintenanceMode", Val: *asked.Maintenance})
			}
			if asked.Entering != nil {
				c.v.enterMaintenance(host, *asked.Entering)
			}
			if asked.Connected != nil {
				state := types.HostSystemConnectionStateNotResponding
				if *asked.Connected {
					state = types.HostSystemConnectionStateConnected
				}
				changes = append(changes, types.PropertyChange{Name: "runtime.connectionState", Val: state})
			}
			if asked.MemoryBytes != nil {
				host.Summary.Hardware.MemorySize = *asked.MemoryBytes
			}
			ctx.Update(host, changes)
		})
	}
	if len(found) == 0 {
		refuse(w, fmt.Errorf("there is no host %q", r.PathValue("name")))
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"hosts": found})
}

// setMachine gives running VMs a chain of disks as long as that many forks make it, or takes their configuration away.
func (c *controls) setMachine(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		Forks    int   `json:"forks"`
		Readable *bool `json:"readable"`
	}
	if err := read(r, &asked); err != nil {
		refuse(w, err)
		return
	}
	found := []string{}
	for _, vm := range c.v.machines() {
		if !matches(r.PathValue("name"), vm.Name) {
			continue
		}
		found = append(found, vm.Name)
		own := c.v.parentOf(vm.Self)
		own.mutex.Lock()
		ctx := c.v.context()
		ctx.WithLock(vm, func() {
			for ; own.chain < asked.Forks; own.chain++ {
				c.v.deepen(ctx, vm)
			}
		})
		own.mutex.Unlock()
		if asked.Readable != nil {
			c.v.setReadable(vm, *asked.Readable)
		}
	}
	if len(found) == 0 {
		refuse(w, fmt.Errorf("there is no VM %q", r.PathValue("name")))
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"machines": found})
}

func (c *controls) setDatastore(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		FreeBytes  *int64  `json:"free_bytes"`
		Accessible *bool   `json:"accessible"`
		VsanHealth *string `json:"vsan_health"`
	}
	if err := read(r, &asked); err != nil {
		refuse(w, err)
		return
	}
	if asked.VsanHealth != nil {
		if err := c.v.vsan.set(*asked.VsanHealth); err != nil {
			refuse(w, err)
			return
		}
	}
	datastore := c.v.registry.Get(c.v.world.datastore).(*simulator.Datastore)
	c.v.context().WithLock(datastore, func() {
		if asked.FreeBytes != nil {
			datastore.Summary.FreeSpace = *asked.FreeBytes
			datastore.Info.GetDatastoreInfo().FreeSpace = *asked.FreeBytes
		}
		if asked.Accessible != nil {
			datastore.Summary.Accessible = *asked.Accessible
		}
	})
	writeJSON(w, http.StatusOK, map[string]any{"name": datastore.Name})
}

// read refuses what it does not know: a rule with a typing mistake would do nothing, and its test would pass.
func read(r *http.Request, into any) error {
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	return decoder.Decode(into)
}

func refuse(w http.ResponseWriter, err error) {
	writeJSON(w, http.StatusBadRequest, map[string]any{"error": err.Error()})
}
