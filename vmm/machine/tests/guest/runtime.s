# What every guest starts from. Position independent: the whole section is copied to 1 MiB and runs
# there, one to one mapped. Routines change RAX, RCX and RDX only, unless said otherwise.
#
#   R13  number of this CPU (its initial APIC id)
#   R14  1 where the APIC is in x2APIC mode, else 0
#   R15  address of word 0; word n is at [R15 + 128 * n], the host's order n at [R15 + 128 * n - 60]
#
#   0x0c000 page directory of the fourth GiB    0x13000 the trampoline, 0x13ff0 counts its runs
#   0x10000 IDT    0x12000 GDT    0x12100 TSS   0x14000 entry of APs, 0x14008 address of rt_ap_main
#   0x50000 stack of handlers from CPL 3        0x60000 stacks, one page a CPU

.globl rt_setup, rt_gate, rt_gates, rt_handler, rt_apic_on, rt_write, rt_read, rt_eoi, rt_ipi, rt_ring
.globl rt_rest, rt_start_ap, rt_sipi, rt_init_ipi, rt_say, rt_user, rt_icr_msr, rt_icr_mmio

# Sets up the boot CPU: page tables, GDT, IDT, R13 and R15. Changes any register.
rt_setup:
    # The boot tables map the first GiB only. The mailbox and the APIC are in the fourth.
    mov eax, 0xd0000087                 # present, writable, user, 2 MiB
    mov qword ptr [0xc400], rax
    mov eax, 0xfee0009f                 # the same, uncached
    mov qword ptr [0xcfb8], rax
    mov qword ptr [0xa018], 0xc007
    # CPL 3 may use the first 2 MiB, where the image is.
    or qword ptr [0x9000], 4
    or qword ptr [0xa000], 4
    or qword ptr [0xb000], 4
    mov rax, cr3
    mov cr3, rax

    lea rsi, [rip + rt_gdt]
    mov edi, 0x12000
    mov ecx, 64
    rep movsb
    mov qword ptr [0x12104], 0x51000    # RSP0
    lgdt [rip + rt_gdtr]
    mov ax, 0x30
    ltr ax

    xor esi, esi
    lea rax, [rip + rt_stubs]
    mov edx, 8
    call rt_gates
    lidt [rip + rt_idtr]
    movabs r15, {words}
    xor r13d, r13d
    ret

# Vector EDI goes to the handler at RAX. Changes RDI.
rt_gate:
    shl edi, 4
    mov word ptr [rdi + 0x10000], ax
    mov word ptr [rdi + 0x10002], 0x10
    mov word ptr [rdi + 0x10004], 0x8e00
    shr rax, 16
    mov word ptr [rdi + 0x10006], ax
    mov qword ptr [rdi + 0x10008], 0
    ret

# Vectors from ESI to 255 go to handlers EDX bytes apart, the first of which is at RAX. Changes RAX, RSI and RDI.
rt_gates:
    push rax
    mov edi, esi
    call rt_gate
    pop rax
    add rax, rdx
    inc esi
    cmp esi, 256
    jne rt_gates
    ret

# A handler: counts in word 0 and ends the interrupt.
rt_handler:
    push rax
    push rcx
    push rdx
    inc qword ptr [r15]
    call rt_eoi
    pop rdx
    pop rcx
    pop rax
    iretq

# Enables this CPU's APIC, as x2APIC if CPUID offers it and the byte at 0x13ff8 is zero; sets R14. Changes RBX.
rt_apic_on:
    mov eax, 1
    cpuid
    xor r14d, r14d
    bt ecx, 21
    jnc 21f
    cmp byte ptr [0x13ff8], 0
    jne 21f
    mov ecx, 0x1b
    rdmsr
    or eax, 0x400
    wrmsr
    mov r14d, 1
21: mov ecx, 0x0f                       # spurious-interrupt vector: enable
    mov eax, 0x1ff
    jmp rt_write

# APIC register number ECX (0x10 * ECX as an offset, 0x800 + ECX as an MSR) becomes EAX.
rt_write:
    test r14d, r14d
    jz 21f
    add ecx, 0x800
    xor edx, edx
    wrmsr
    ret
21: shl ecx, 4
    mov edx, 0xfee00000
    mov dword ptr [rdx + rcx], eax
    ret

# EAX becomes APIC register number ECX.
rt_read:
    test r14d, r14d
    jz 21f
    add ecx, 0x800
    rdmsr
    ret
21: shl ecx, 4
    mov edx, 0xfee00000
    mov eax, dword ptr [rdx + rcx]
    ret

rt_eoi:
    mov ecx, 0x0b
    xor eax, eax
    jmp rt_write

# Writes the ICR: command EAX, destination EDX.
rt_ipi:
    test r14d, r14d
    jz 21f
    mov ecx, 0x830
rt_icr_msr:
    wrmsr
    ret
21: shl edx, 24
    mov ecx, 0xfee00310
    mov dword ptr [rcx], edx
    mov ecx, 0xfee00300
    mov dword ptr [rcx], eax
rt_icr_mmio:
    ret

# Rings the doorbell.
rt_ring:
    mov dx, 0x510
    out dx, al
    ret

# Nothing more to do. Takes no interrupt.
rt_rest:
    cli
21: hlt
    jmp 21b

# Writes the text at RSI, up to its NUL, to the console. Changes RSI.
rt_say:
    mov dx, 0x3f8
21: lodsb
    test al, al
    jz 2f
    out dx, al
    jmp 21b
2:  ret

# Goes on at RAX in CPL 3 with interrupts on. Does not return.
rt_user:
    push 0x23
    push 0x4ff00
    push 0x202
    push 0x2b
    push rax
    iretq

# Starts CPU R8D at RAX in 64-bit mode, where R13 to R15 and the APIC are set up. Changes RSI, RDI.
rt_start_ap:
    mov qword ptr [0x14000], rax
    lea rax, [rip + rt_ap_main]
    mov qword ptr [0x14008], rax
    lea rsi, [rip + rt_tramp]
    mov edi, 0x13000
    mov ecx, 256                        # more than it has
    rep movsb
    call rt_init_ipi
rt_sipi:
    mov eax, 0x4613                     # start at 0x13000
    mov edx, r8d
    jmp rt_ipi
rt_init_ipi:
    mov eax, 0x4500
    mov edx, r8d
    jmp rt_ipi

rt_ap_main:
    lidt [rip + rt_idtr]
    movabs r15, {words}
    call rt_apic_on
    call qword ptr [0x14000]
    jmp rt_rest

# Real mode at 0x13000, then protected mode, then 64-bit mode.
.code16
rt_tramp:
    cli
    inc dword ptr cs:[0xff0]
    .byte 0x2e, 0x66, 0x0f, 0x01, 0x16  # lgdt cs:[...], with a 32-bit base
    .word rt_tramp_gdtr - rt_tramp
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea                    # jmp 0x08:...
    .long 0x13000 + (21f - rt_tramp)
    .word 0x08
.code32
21: mov eax, 0x18
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov eax, cr4
    or eax, 0x20                        # PAE
    mov cr4, eax
    mov eax, 0x9000
    mov cr3, eax
    mov ecx, 0xc0000080                 # EFER.LME
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, cr0
    and eax, 0x9fffffff                 # caches on
    or eax, 0x80000000
    mov cr0, eax
    .byte 0xea                          # jmp 0x10:...
    .long 0x13000 + (2f - rt_tramp)
    .word 0x10
.code64
2:  mov eax, 1
    cpuid
    shr ebx, 24                         # initial APIC id
    mov r13d, ebx
    shl ebx, 12
    lea esp, [ebx + 0x61000]
    jmp qword ptr [0x14008]
rt_tramp_gdtr:
    .word 63
    .long 0x12000
rt_tramp_end:

# One stub a vector, eight bytes each; the return address tells which.
.balign 8
rt_stubs:
.rept 256
    call rt_unexpected
    .balign 8
.endr

# An exception or interrupt that no test expects: leaves the vector and the frame in words 61 to 63
# and resets the machine.
rt_unexpected:
    pop rax
    lea rcx, [rip + rt_stubs]
    sub rax, rcx
    shr eax, 3
    or eax, 0x100
    mov qword ptr [r15 + 128 * 63], rax
    mov rax, qword ptr [rsp]
    mov qword ptr [r15 + 128 * 62], rax
    mov rax, qword ptr [rsp + 8]
    mov qword ptr [r15 + 128 * 61], rax
    mov al, 0xfe
    out 0x64, al
    jmp rt_rest

.balign 8
rt_gdt:
    .quad 0
    .quad 0x00cf9b000000ffff            # 0x08: 32-bit code
    .quad 0x00af9b000000ffff            # 0x10: 64-bit code
    .quad 0x00cf93000000ffff            # 0x18: data
    .quad 0x00cff3000000ffff            # 0x23: data of CPL 3
    .quad 0x00affb000000ffff            # 0x2b: 64-bit code of CPL 3
    .quad 0x0000890121000067            # 0x30: TSS at 0x12100
    .quad 0
rt_gdtr:
    .word 63
    .quad 0x12000
rt_idtr:
    .word 4095
    .quad 0x10000
