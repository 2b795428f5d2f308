<?php

declare(strict_types=1);

// The page asks here: by fetch with the conversation, by EventSource with a ticket from ask.php. PHP says who may ask
// what, and is done. Apache passes the browser's connection to handoffd, which streams the answer into it.

require __DIR__ . '/../site.php';

$user = require_user();
if ($_SERVER['REQUEST_METHOD'] === 'POST') {
    $question = read_question();
} else {
    $ticket = (string) ($_GET['ticket'] ?? '');
    $question = $_SESSION['tickets'][$ticket] ?? null;
    unset($_SESSION['tickets'][$ticket]);
    if ($question === null) {
        http_response_code(204); // the one status that tells EventSource to stay away
        exit;
    }
}
session_write_close();

$payload = $question + ['user_id' => $user, 'format' => 'content', 'include' => ['usage']];
header('X-Socket-Handoff: ' . (getenv('HANDOFFD_SOCKET') ?: '/run/handoffd/handoffd.sock'));
header('X-Handoff-Body: 1');
header('Content-Type: application/json');
echo json_encode($payload, JSON_UNESCAPED_SLASHES | JSON_INVALID_UTF8_SUBSTITUTE);
