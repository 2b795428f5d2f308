<?php

declare(strict_types=1);

// EventSource can only GET, and a conversation fits into no URL. So the page leaves it here, and gets a ticket, which
// chat.php takes. A ticket is good for one answer: a browser that connects again by itself pays for no second one.

require __DIR__ . '/../site.php';

require_user();
$ticket = bin2hex(random_bytes(16));
$tickets = $_SESSION['tickets'] ?? [];
$tickets[$ticket] = read_question();
$_SESSION['tickets'] = array_slice($tickets, -TICKETS_MAX, null, true);
reply(200, ['ticket' => $ticket]);
