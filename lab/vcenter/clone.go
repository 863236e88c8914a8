package main

import (
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// longestChain is how many disks may stand behind one another. A running parent gains one with each fork.
const longestChain = 255

// parent is what one VM that was forked holds back from the next fork.
type parent struct {
	mutex sync.Mutex
	chain int
}

// freeLock opts out of the simulator's lock around a call: these calls take the locks that they need, when they do.
type freeLock struct{}

func (*freeLock) Lock()   {}
func (*freeLock) Unlock() {}

// machineCalls are the methods of a VM that we answer in the simulator's place.
type machineCalls struct {
	freeLock
	Self types.ManagedObjectReference
	v    *vcenter
	vm   *simulator.VirtualMachine
}

func (m *machineCalls) Reference() types.ManagedObjectReference { return m.Self }

// InstantCloneTask forks the VM.
func (m *machineCalls) InstantCloneTask(ctx *simulator.Context, req *types.InstantClone_Task) soap.HasFault {
	body := new(methods.InstantClone_TaskBody)
	if m.v.registry.IsESX() {
		body.Fault_ = simulator.Fault("A host alone cannot do it.", new(types.NotSupported))
		return body
	}
	host := m.v.hostOf(m.vm)
	delay := m.v.rules.delay("InstantClone_Task", host.Name)
	injected := m.v.rules.fault("InstantClone_Task", host.Name, atTask)
	task := m.v.tasks.start(ctx, m.vm, "InstantClone_Task", func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
		return m.v.instantClone(ctx, m.vm, &req.Spec, delay, injected)
	})
	m.v.rules.loseAnswer("InstantClone_Task", host.Name)
	body.Res = &types.InstantClone_TaskResponse{Returnval: task}
	return body
}

func (v *vcenter) instantClone(ctx *simulator.Context, source *simulator.VirtualMachine, spec *types.VirtualMachineInstantCloneSpec, delay delay, injected *fault) (types.AnyType, types.BaseMethodFault) {
	target := v.targetOf(source, spec)
	if wrong := v.checkClone(ctx, source, spec, target); wrong != nil {
		return nil, wrong
	}
	key := target.folder.Value + "/" + spec.Name
	if !v.reserve(key) {
		return nil, &types.DuplicateName{Name: spec.Name, Object: source.Self}
	}
	defer v.release(key)
	if injected != nil && !injected.isLate() {
		time.Sleep(delay.serialized)
		return nil, injected.make(source.Self)
	}
	forked, level, wrong := v.serialized(ctx, source, delay)
	if wrong != nil {
		return nil, wrong
	}
	time.Sleep(delay.rest())
	bios := spec.BiosUuid
	if bios == "" {
		bios = uuid.NewString()
	}
	var child *simulator.VirtualMachine
	ctx.WithLock(source, func() { child = copyMachine(source, spec.Name, bios, level) })
	setExtraConfig(child.Config, spec.Config)
	applyNICs(child, spec.Location.DeviceChange)
	if wrong = v.enter(ctx, child, target.folder, target.pool); wrong != nil {
		return nil, wrong
	}
	v.guests.begin(child, forked)
	if injected != nil {
		// The window at the end that cannot be rolled back: the caller hears of a failure, and the child lives.
		return nil, injected.make(source.Self)
	}
	return child.Self, nil
}

// serialized is the part in which a parent is forked once at a time; it gives the state in which the guest wakes up.
func (v *vcenter) serialized(ctx *simulator.Context, source *simulator.VirtualMachine, delay delay) (*guestState, childLevel, types.BaseMethodFault) {
	own := v.parentOf(source.Self)
	own.mutex.Lock()
	defer own.mutex.Unlock()
	time.Sleep(delay.serialized)
	var frozen bool
	var wrong types.BaseMethodFault
	ctx.WithLock(source, func() {
		frozen = isFrozen(source)
		if frozen {
			return
		}
		if own.chain >= longestChain {
			wrong = &types.GenericVmConfigFault{Reason: "The disk chain of the running source has 255 levels, which is the limit."}
			return
		}
		own.chain++
		v.deepen(ctx, source)
	})
	return v.guests.state(source.Self), childLevel{delta: true}, wrong
}

// deepen gives the running parent a new disk on top: the one that it had is now shared with the child.
func (v *vcenter) deepen(ctx *simulator.Context, source *simulator.VirtualMachine) {
	devices := append([]types.BaseVirtualDevice{}, source.Config.Hardware.Device...)
	for index, device := range devices {
		disk, ok := device.(*types.VirtualDisk)
		if !ok {
			continue
		}
		if backing, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok {
			deeper := *disk
			deeper.Backing = deltaOf(backing, source.Name)
			devices[index] = &deeper
		}
	}
	ctx.Update(source, []types.PropertyChange{{Name: "config.hardware.device", Val: devices}})
}

func (v *vcenter) parentOf(ref types.ManagedObjectReference) *parent {
	v.mutex.Lock()
	defer v.mutex.Unlock()
	if v.parents[ref] == nil {
		v.parents[ref] = &parent{}
	}
	return v.parents[ref]
}

func (v *vcenter) reserve(key string) bool {
	v.mutex.Lock()
	defer v.mutex.Unlock()
	if v.reserved[key] {
		return false
	}
	v.reserved[key] = true
	return true
}

func (v *vcenter) release(key string) {
	v.mutex.Lock()
	defer v.mutex.Unlock()
	delete(v.reserved, key)
}

func isFrozen(vm *simulator.VirtualMachine) bool {
	return vm.Runtime.InstantCloneFrozen != nil && *vm.Runtime.InstantCloneFrozen
}

// applyNICs takes the edits of network cards that came with the fork; nothing else may be edited.
func applyNICs(vm *simulator.VirtualMachine, changes []types.BaseVirtualDeviceConfigSpec) {
	for _, change := range changes {
		wanted := change.GetVirtualDeviceConfigSpec().Device.(types.BaseVirtualEthernetCard).GetVirtualEthernetCard()
		own := findCard(vm, wanted.Key)
		if own == nil {
			continue
		}
		if wanted.Backing != nil {
			own.Backing = wanted.Backing
			givePort(own)
		}
		if wanted.MacAddress != "" && wanted.AddressType == string(types.VirtualEthernetCardMacTypeManual) {
			own.MacAddress = wanted.MacAddress
		}
		if wanted.Connectable != nil {
			// connected says nothing for a VM that is being made: migrateConnect does.
			switch wanted.Connectable.MigrateConnect {
			case string(types.VirtualDeviceConnectInfoMigrateConnectOpDisconnect):
				own.Connectable.Connected = false
			case string(types.VirtualDeviceConnectInfoMigrateConnectOpConnect):
				own.Connectable.Connected = true
			}
			own.Connectable.StartConnected = wanted.Connectable.StartConnected
		}
	}
}

// setExtraConfig replaces the values that are given; an empty one removes its key.
func setExtraConfig(config *types.VirtualMachineConfigInfo, given []types.BaseOptionValue) {
	fresh := map[string]types.BaseOptionValue{}
	for _, option := range given {
		fresh[option.GetOptionValue().Key] = option
	}
	kept := make([]types.BaseOptionValue, 0, len(config.ExtraConfig)+len(given))
	for _, option := range config.ExtraConfig {
		if fresh[option.GetOptionValue().Key] == nil {
			kept = append(kept, option)
		}
	}
	for _, option := range given {
		if text, isText := option.GetOptionValue().Value.(string); !isText || text != "" {
			kept = append(kept, option)
		}
	}
	config.ExtraConfig = kept
}
